"""The runner: what is measured once, what is noted, what goes on."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import numpy as np
import pytest

from p2u.errors import DiskError, FormatError, UsageError
from p2u_lab.base import Scores
from p2u_lab.cells import Cell, CellStore, Key, folder_digest, write_whole
from p2u_lab.registry import choose, make_task
from p2u_lab.run import Outcome, Runner

BITS = (2.0, 3.0, 4.0)


def run(root: Path, methods: list, bits=BITS, task=None, limit: int | None = None) -> Outcome:
    runner = Runner(CellStore(root / "store"))
    task = task or fakes.Points(limit)
    runner.pair(fakes.model(root / "model"), task, {m.name: m for m in methods}, bits, limit)
    return runner.outcome


def names(outcome: Outcome) -> list[tuple]:
    return [(m.point.method, m.point.state, m.point.bits) for m in outcome.pairs[0].points]


def test_every_method_is_called_once_with_all_bits(tmp_path: Path) -> None:
    ours, cast = fakes.Rounding(), fakes.Cast()
    found = run(tmp_path, [ours, cast, fakes.Plain()])
    assert ours.calls == [BITS]
    assert cast.calls == 1
    assert names(found) == [
        *(("p2u", state, b) for b in BITS for state in ("base", "8bit", "exact")),
        ("fp16", "fp16", 16.0),
        ("plain", "exact", None),
    ]
    assert not found.skipped


def test_a_second_run_measures_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = run(tmp_path, [fakes.Rounding(), fakes.Cast(), fakes.Plain()])
    ours, cast, task = fakes.Rounding(), fakes.Cast(), fakes.Points()
    second = run(tmp_path, [ours, cast, fakes.Plain()], task=task)
    assert not ours.calls
    assert not cast.calls
    assert not task.scored
    assert second.made == 0
    assert names(second) == names(first)
    for a, b in zip(first.pairs[0].points, second.pairs[0].points, strict=True):
        assert a.point == b.point
        assert np.array_equal(a.scores.values, b.scores.values)
        assert a.scores.extra == b.scores.extra


def test_more_bits_measure_only_these(tmp_path: Path) -> None:
    run(tmp_path, [fakes.Rounding(), fakes.Cast()])
    ours, cast = fakes.Rounding(), fakes.Cast()
    found = run(tmp_path, [ours, cast], bits=(*BITS, 6.0))
    assert ours.calls == [(6.0,)]
    assert not cast.calls
    assert ("p2u", "base", 6.0) in names(found)
    assert names(found).count(("fp16", "fp16", 16.0)) == 1


def test_fewer_bits_show_only_these(tmp_path: Path) -> None:
    run(tmp_path, [fakes.Rounding("rtn")])
    found = run(tmp_path, [fakes.Rounding("rtn")], bits=(3.0,))
    assert names(found) == [("rtn", "3bit", 3.0)]


@pytest.mark.parametrize("what", ["limit", "task", "method", "model"])
def test_what_changes_a_cell_makes_a_new_one(tmp_path: Path, what: str) -> None:
    run(tmp_path, [fakes.Rounding()])
    ours, task, limit = fakes.Rounding(), fakes.Points(), None
    root = tmp_path
    if what == "limit":
        limit, task = 50, fakes.Points(50)
    elif what == "task":
        task.version = 2
    elif what == "method":
        ours.version = 2
    runner = Runner(CellStore(root / "store"))
    model = fakes.model(tmp_path / "model")
    if what == "model":
        whole = model.folder

        def changed(report):
            folder = whole(report)
            (folder / "config.json").write_text('{"a": 1}')
            return folder

        object.__setattr__(model, "folder", changed)
        ours = fakes.Rounding("rtn")  # whose files would not be the publisher's
    runner.pair(model, task, {ours.name: ours}, BITS, limit)
    assert ours.calls == [BITS]
    if limit:
        assert len(runner.outcome.pairs[0].original.values) == 50


def test_equal_files_are_scored_once(tmp_path: Path) -> None:
    task = fakes.Points()
    run(tmp_path, [fakes.Rounding(), fakes.Rounding("rtn"), fakes.Plain()], task=task)
    # The original, three roundings, and the 8bit state; exact ones are the original.
    assert len(task.scored) == 5


def test_an_interrupt_keeps_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [fakes.Interrupted()])
    ours = fakes.Rounding()
    found = run(tmp_path, [ours])
    assert ours.calls == [(3.0, 4.0)]
    assert len(names(found)) == 9


def test_faults_of_some_bits_leave_the_others(tmp_path: Path) -> None:
    picky = fakes.Picky()
    found = run(tmp_path, [picky, fakes.Plain()], bits=(2.0, 3.0, 4.0, 5.0, 6.0))
    assert names(found) == [
        *(("picky", f"{b:g}bit", b) for b in (2.0, 4.0, 6.0)),
        ("plain", "exact", None),
    ]
    assert [(s.bits, s.status, s.reason) for s in found.skipped] == [
        (3.0, "unsupported", "picky has no 3 bits"),
        (5.0, "failed", "ZeroDivisionError: oh"),
    ]
    # What failed is tried again, what is unsupported is not.
    again = fakes.Picky()
    run(tmp_path, [again, fakes.Plain()], bits=(2.0, 3.0, 4.0, 5.0, 6.0))
    assert again.calls == [(5.0,)]


def test_a_missing_library_is_noted_and_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        found = run(tmp_path, [fakes.Lacking(), fakes.Plain()])
        assert [(s.method, s.status) for s in found.skipped] == [("lacking", "missing")]
        assert "pip install nolib" in found.skipped[0].reason
        assert names(found) == [("plain", "exact", None)]


def test_exact_is_checked(tmp_path: Path) -> None:
    found = run(tmp_path, [fakes.Liar()])
    assert names(found) == []
    assert "not the publisher's" in found.skipped[0].reason


def test_missing_data_are_noted(tmp_path: Path) -> None:
    found = run(tmp_path, [fakes.Plain()], task=fakes.NoData())
    assert not found.pairs
    assert (found.skipped[0].status, found.skipped[0].method) == ("missing", "")


def test_a_broken_cell_is_measured_again(tmp_path: Path) -> None:
    run(tmp_path, [fakes.Rounding()])
    for path in (tmp_path / "store" / "cells").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    ours = fakes.Rounding()
    run(tmp_path, [ours])
    assert ours.calls == [BITS]


def test_lost_scores_are_measured_again(tmp_path: Path) -> None:
    run(tmp_path, [fakes.Rounding()])
    for path in (tmp_path / "store" / "scores").iterdir():
        path.unlink()
    ours = fakes.Rounding()
    run(tmp_path, [ours])
    assert ours.calls == [BITS]


KEY = Key("m", "t", 1, None, "x", 1, 4.0, "0")


def test_cells_come_back(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    assert store.load(KEY) is None
    store.save(KEY, Cell("unsupported", reason="no"))
    assert store.load(KEY) == Cell("unsupported", reason="no")
    store.save(KEY, Cell("failed", reason="no"))
    assert store.load(KEY) is None
    tree = json.loads(next((tmp_path / "cells").iterdir()).read_text())
    assert tree["key"]["bits"] == 4.0


def test_scores_come_back(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    kept = Scores(np.array([0.5, 1]), np.array([3.0, 1]), {"wer": 0.25})
    store.save_scores("t", 1, None, "f", kept)
    found = store.scores("t", 1, None, "f")
    assert found is not None
    assert found.weights is not None
    assert found.mean == kept.mean == 0.625
    assert found.extra == {"wer": 0.25}
    assert store.scores("t", 1, 5, "f") is None
    next((tmp_path / "scores").iterdir()).write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError):
        store.scores("t", 1, None, "f")


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "x"
    write_whole(path, b"old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(DiskError, match="full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_digest_knows_names_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        folder_digest(tmp_path)
    seen = set()
    for name, data in [("a", b"1"), ("a", b"2"), ("b", b"2")]:
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / name).write_bytes(data)
        seen.add(folder_digest(tmp_path))
    assert len(seen) == 3
    (tmp_path / ".p2u").mkdir()
    (tmp_path / ".p2u" / "state").write_bytes(b"3")
    assert folder_digest(tmp_path) in seen


def test_names_are_chosen_or_proposed() -> None:
    known = {"resnet20": 1, "resnet56": 2}
    assert choose("model", known, []) == known
    assert choose("model", known, ["resnet56"]) == {"resnet56": 2}
    with pytest.raises(UsageError, match="Did you mean resnet20"):
        choose("model", known, ["resnet2"])


def test_limits_reach_tasks() -> None:
    assert make_task(fakes.Points, 5).limit == 5  # type: ignore[attr-defined]
    assert make_task(lambda: fakes.Points(), 5).limit == 5  # type: ignore[attr-defined]
    assert make_task(fakes.Points, None).limit is None  # type: ignore[attr-defined]
    whole = type("Whole", (fakes.NoData,), {"__init__": lambda self: None})
    with pytest.raises(UsageError, match="no limit"):
        make_task(lambda: whole(), 5)
