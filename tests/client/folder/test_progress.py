"""What is said before and on the way, and limits of rate and time."""

from __future__ import annotations

import itertools

import pytest
from kit import STATES
from pulling import interrupted, pull_with

from p2u.client.folder.pull import pull
from p2u.errors import UsageError


def test_dry_run_changes_nothing(made, tmp_path):
    dst = tmp_path / "dst"
    result = pull(made.package, dst, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert result.state is None
    assert [step.state for step in result.plan.steps] == list(STATES)
    assert result.plan.missing == sum(u.bytes + u.index.size for u in made.manifest.updates)
    pull(made.package, dst, until="8bit")
    plan = pull(made.package, dst, dry_run=True, in_place=True).plan
    assert (plan.here, [(s.state, s.in_place) for s in plan.steps]) == ("8bit", [("exact", True)])
    assert pull(made.package, dst, until="base", dry_run=True).plan.steps == ()


def test_dry_run_knows_what_is_here_already(made, tmp_path):
    dst = tmp_path / "dst"
    pull_with(made.package, dst, until="base")
    interrupted(made, dst, 8)
    step = pull_with(made.package, dst, dry_run=True).plan.steps[0]
    assert 0 < step.missing < step.bytes


@pytest.mark.parametrize("straight", [False, True])
def test_progress_ends_at_its_total(made, tmp_path, straight):
    seen = []
    pull(made.package, tmp_path / "dst", progress=seen.append, straight=straight)
    last = seen[-1]
    assert last.done == last.total == last.marks[-1][1] == made.manifest.states[-1].bytes
    expected = [(s.label, s.bytes) for s in made.manifest.states]
    assert list(last.marks) == (expected[-1:] if straight else expected)
    assert (last.state, last.target) == ("exact", "exact")
    assert {p.state for p in seen} <= ({None, "exact"} if straight else {None, *STATES})
    assert all(a.done <= b.done for a, b in itertools.pairwise(seen))


def test_limit_rate(made, tmp_path):
    size = made.manifest.states[0].bytes
    result = pull(made.package, tmp_path / "dst", until="base", limit_rate=2.0 * size)
    assert 0.4 < result.seconds < 2


def test_a_deadline_far_off_changes_nothing(made, tmp_path):
    assert pull(made.package, tmp_path / "dst", deadline=60).state == "exact"


@pytest.mark.parametrize("in_place", [False, True])
def test_a_deadline_gives_the_best_state_that_can_be_here_by_then(made, tmp_path, in_place):
    """A link on which the 8bit state takes one second and exact three more."""
    dst = tmp_path / "dst"
    base, middle, last = (state.bytes for state in made.manifest.states)
    rate = min(float(middle), (last - middle) / 3)
    result = pull(made.package, dst, deadline=middle / rate + 0.5, limit_rate=rate)
    assert result.state == made.label(dst) == "8bit"
    assert result.seconds < middle / rate + 1
    # At once the base, however late it is.
    assert pull(made.package, tmp_path / "b", deadline=0.01, limit_rate=3.0 * base).state == "base"
    # No deadline: the rest.
    assert pull(made.package, dst, in_place=in_place).state == "exact"


def test_what_the_deadline_cut_off_is_kept(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="8bit")
    size = made.update("exact").bytes
    # Nothing is measured yet when it begins, so it tries.
    assert pull(made.package, dst, deadline=0.6, limit_rate=size / 1.2).state == "8bit"
    result = pull(made.package, dst)
    assert made.label(dst) == "exact"
    assert result.fetched < 0.9 * size


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_impossible_deadlines(made, tmp_path, deadline):
    with pytest.raises(UsageError, match="deadline"):
        pull(made.package, tmp_path / "dst", deadline=deadline)
