"""Packages with more levels than the default: each one can be pulled, and all lead to exact."""

from __future__ import annotations

import kit
import numpy as np
import pytest
from kit import QUICK, tree
from pulling import leftovers, pull_with
from store_kit import CountingStore, FlakyStore

import p2u
from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import StoreError
from p2u.stores import LocalStore

LEVELS = ("base", "6bit", "8bit", "10bit", "exact")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> kit.Made:
    """A model, its package with five levels, and each state."""
    return kit.make(tmp_path_factory.mktemp("levels"), LEVELS)


@pytest.mark.parametrize("in_place", [False, True])
def test_one_level_at_a_time(made, tmp_path, in_place):
    dst = tmp_path / "dst"
    for label in LEVELS:
        store = CountingStore(LocalStore(made.package))
        pull(store, dst, until=label, in_place=in_place)
        assert made.label(dst) == label
        assert sum(taken for *_, taken in store.ranges) == made.update(label).bytes
    assert tree(dst) == tree(made.model)


def test_all_levels_in_one_pull(made, tmp_path):
    seen = []
    pull(made.package, tmp_path / "dst", on_state=seen.append)
    assert tuple(seen) == LEVELS
    assert verify(made.package, decode=True).states == LEVELS


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("label", LEVELS[1:])
def test_a_pull_that_broke_at_any_level_resumes(made, tmp_path, label, in_place):
    dst = tmp_path / "dst"
    middle = made.update(label).bytes // 2
    store = FlakyStore(
        LocalStore(made.package),
        lambda key, start, _: key.startswith(f"{label}-") and start >= middle,
    )
    with pytest.raises(StoreError):
        pull_with(store, dst, in_place=in_place, retry=QUICK, jobs=1, straight=False)
    if not in_place:
        assert made.label(dst) == LEVELS[LEVELS.index(label) - 1]
    rest = CountingStore(LocalStore(made.package))
    pull_with(rest, dst, in_place=in_place, straight=False)
    left = [made.update(later).bytes for later in LEVELS[LEVELS.index(label) :]]
    assert sum(taken for *_, taken in rest.ranges) < sum(left) - left[0] // 3
    assert tree(dst) == tree(made.model)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("first", [None, *LEVELS[:-1]])
@pytest.mark.parametrize("in_place", [False, True])
def test_straight_across_any_levels(made, tmp_path, first, in_place):
    """Interrupted, too; each byte of each level is fetched once."""
    dst = tmp_path / "dst"
    if first is not None:
        pull(made.package, dst, until=first)
    left = LEVELS[LEVELS.index(first) + 1 if first else 0 :]
    total = sum(made.update(label).bytes for label in left)
    dying = FlakyStore(LocalStore(made.package), lambda key, start, n: n > 16 * len(left))
    with pytest.raises(StoreError):
        pull_with(dying, dst, in_place=in_place, retry=QUICK, jobs=1, straight=True)
    assert made.label(dst) in (first, None)
    rest = CountingStore(LocalStore(made.package))
    seen = []
    pull_with(rest, dst, in_place=in_place, straight=True, on_state=seen.append)
    assert seen == ["exact"]
    assert tree(dst) == tree(made.model)
    assert sum(taken for *_, taken in rest.ranges) < 0.95 * total
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("label", LEVELS)
def test_each_level_in_memory(made, label):
    safetensors = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("ml_dtypes")
    file = "model-00001-of-00002.safetensors"
    expected = safetensors.load_file(made.states[label] / file)
    found = p2u.load(made.package, state=label)
    for name, array in expected.items():
        assert np.array_equal(found[name].view(np.uint8), array.view(np.uint8))
