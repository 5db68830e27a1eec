"""Scratch folders: empty at first, gone in the end, moved away in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2u.disk.scratch import ScratchFolder, make_empty, scratch_path


def test_a_path_next_to_the_target(tmp_path: Path) -> None:
    one, two = (scratch_path(tmp_path / "model", "packing") for _ in range(2))
    assert one != two
    assert one.parent == tmp_path
    assert one.name.startswith(".model.")
    assert one.suffix == ".packing"


@pytest.mark.parametrize("before", [None, "file", "folder", "link"])
def test_empty_at_first_and_gone_in_the_end(tmp_path: Path, before: str | None) -> None:
    path, other = tmp_path / "scratch", tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("precious")
    if before == "file":
        path.write_text("left behind")
    elif before == "folder":
        path.mkdir()
        (path / "left").write_text("behind")
    elif before == "link":
        path.symlink_to("other")
    with ScratchFolder(path) as scratch:
        assert scratch.path == path
        assert list(path.iterdir()) == []
        (path / "file").write_text("")
    assert [p.name for p in tmp_path.iterdir()] == ["other"]
    assert (other / "precious").read_text() == "precious"


def test_moved_away(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path / "scratch") as scratch:
        scratch.path.rename(tmp_path / "place")
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


def test_removed_on_errors(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ScratchFolder(tmp_path / "scratch"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_made_empty(tmp_path: Path) -> None:
    make_empty(tmp_path / "a")
    (tmp_path / "a" / "b").write_text("")
    make_empty(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
