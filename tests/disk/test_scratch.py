"""Scratch folders: empty at first, gone in the end, moved away in between."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from p2u.disk.locks import FileLock
from p2u.disk.scratch import (
    LOCK,
    HeldFolder,
    ScratchFolder,
    TemporaryFolder,
    file_in_the_making,
    make_empty,
    remove_abandoned,
    scratch_path,
)


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


# --- folders with a lock in them

#: Makes one for a target, says so, and waits to be killed.
HOLD = """
import sys
from pathlib import Path
from p2u.disk.scratch import HeldFolder
folder = HeldFolder(Path(sys.argv[1]))
folder.__enter__()
(folder.path / "blob").write_bytes(b"x" * 1000)
print(folder.path.name, flush=True)
sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_held_folder_is_moved_to_its_place(tmp_path: Path) -> None:
    with HeldFolder(tmp_path / "model") as held:
        assert names(held.path) == [LOCK]
        (held.path / "file").write_text("")
        held.move(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["file"]


def test_a_held_folder_can_be_read_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with HeldFolder(tmp_path / "model") as held:
        assert held.path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_somebody_removes_it_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, met = FileLock.acquire, []

    def removed_first(self: FileLock) -> None:
        if not met:
            met.append(self.path.parent)
            self.path.parent.rmdir()
        acquire(self)

    monkeypatch.setattr(FileLock, "acquire", removed_first)
    with HeldFolder(tmp_path / "model") as held:
        assert held.path != met[0]
        assert names(tmp_path) == [held.path.name]


def test_a_held_folder_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), HeldFolder(tmp_path / "model"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "model"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        dead, alive = (process.stdout.readline().strip() for process in processes)  # type: ignore[union-attr]
        processes[0].kill()
        processes[0].wait()
        assert names(tmp_path) == sorted([dead, alive])
        with HeldFolder(target) as mine:
            remove_abandoned(target)
            assert names(tmp_path) == sorted([alive, mine.path.name])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    remove_abandoned(target)
    assert names(tmp_path) == []


def test_killed_before_the_lock_was_there(tmp_path: Path) -> None:
    scratch_path(tmp_path / "model", "packing").mkdir()
    remove_abandoned(tmp_path / "model")
    assert names(tmp_path) == []


def test_another_target_is_packed_next(tmp_path: Path) -> None:
    """Its publisher may never come back."""
    for name in ("one", "two"):
        left = scratch_path(tmp_path / name, "packing")
        left.mkdir()
        if name == "one":  # without a lock it may be anybody's
            (left / LOCK).write_text("")
    remove_abandoned(tmp_path / "three")
    (kept,) = names(tmp_path)
    assert kept.startswith(".two.")


def test_killed_while_removing(tmp_path: Path) -> None:
    gone = scratch_path(tmp_path / "model", "gone")
    gone.mkdir()
    (gone / "blob").write_text("")
    remove_abandoned(tmp_path / "model")
    assert names(tmp_path) == []


def test_a_former_folder_stays_while_its_place_is_empty(tmp_path: Path) -> None:
    target = tmp_path / "model"
    former = scratch_path(target, "old")
    former.mkdir()
    remove_abandoned(target)
    assert names(tmp_path) == [former.name]
    target.mkdir()
    remove_abandoned(target)
    assert names(tmp_path) == ["model"]


def test_others_are_left_alone(tmp_path: Path) -> None:
    """Folders of other targets, names that only look alike, files, and links to elsewhere."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / LOCK).write_text("precious")
    (tmp_path / ".model.1.packing").mkdir()
    (tmp_path / ".model.0123456g.packing").mkdir()
    (tmp_path / ".model2.01234567.packing").mkdir()
    (tmp_path / ".model.01234567.packing").write_text("")
    (tmp_path / ".model.89abcdef.packing").symlink_to(precious)
    before = names(tmp_path)
    remove_abandoned(tmp_path / "model")
    assert names(tmp_path) == before
    assert (precious / LOCK).read_text() == "precious"


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_lock_in_it_that_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    planted = scratch_path(tmp_path / "model", "packing")
    planted.mkdir()
    (planted / LOCK).symlink_to(tmp_path / "precious")
    remove_abandoned(tmp_path / "model")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["a" * 250, "é" * 120, "\N{GRINNING FACE}" * 63])
def test_long_names_have_scratch_folders_too(tmp_path: Path, name: str) -> None:
    for other in (name, f"{name[:-1]}b"):
        scratch_path(tmp_path / other, "packing").mkdir()
    assert all(len(os.fsencode(found)) <= 255 for found in names(tmp_path))
    remove_abandoned(tmp_path / name)
    assert len(names(tmp_path)) == 1
    with HeldFolder(tmp_path / name) as held:
        held.move(tmp_path / name)
    remove_abandoned(tmp_path / f"{name[:-1]}b")
    assert names(tmp_path) == [name]


# --- temporary folders, and files in the making


def killed(action: str, *arguments: str) -> None:
    """Kill a process as soon as it has said something."""
    code = f"import sys\nfrom pathlib import Path\nfrom p2u.disk.scratch import *\n{action}"
    command = [sys.executable, "-c", f"{code}\nprint(1, flush=True); sys.stdin.read()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.kill()


def test_temporary_folders_of_the_dead_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed("folder = TemporaryFolder('p2u-one').__enter__()")
    (left,) = names(tmp_path)
    with TemporaryFolder("p2u-two") as folder:
        assert names(tmp_path) == [folder.path.name] != [left]
        assert folder.path.stat().st_mode & 0o777 == 0o700
        with TemporaryFolder("p2u-two"):
            assert folder.path.exists()
    assert names(tmp_path) == []


def test_only_the_process_that_made_a_temporary_folder_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = TemporaryFolder("p2u").__enter__()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: 1)
        folder.remove()
    assert folder.path.exists()
    folder.remove()
    assert names(tmp_path) == []


def test_files_in_the_making_of_the_dead_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    made = "held = file_in_the_making(Path(sys.argv[1])); held.__enter__().write_text('half')"
    killed(made, str(target))
    assert len(names(tmp_path)) == 1
    with file_in_the_making(target) as part:
        part.write_text("whole")
        part.replace(target)
    assert names(tmp_path) == ["table.json"] and target.read_text() == "whole"


def test_a_file_in_the_making_makes_no_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), file_in_the_making(tmp_path / "no" / "table.json"):
        pass
    assert names(tmp_path) == []
