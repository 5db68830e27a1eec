"""Folders of our own: what others put in their place is not used, and not removed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from p2u.disk import own_folder
from p2u.disk.files import open_file, read_small, remove_below, remove_tree
from p2u.disk.locks import FileLock
from p2u.disk.own_folder import expect, make_own
from p2u.errors import BusyError, DiskError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs links, modes and owners")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that is not ours to touch."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "text").write_text("years of work")
    return folder


def unharmed(folder: Path) -> bool:
    return [(path.name, path.read_text()) for path in folder.iterdir()] == [
        ("text", "years of work")
    ]


def test_a_new_folder_is_only_ours(tmp_path: Path) -> None:
    make_own(tmp_path / "a" / "work")
    assert stat.S_IMODE((tmp_path / "a" / "work").stat().st_mode) == 0o700


def test_a_link_gives_way(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "work").symlink_to(theirs)
    make_own(tmp_path / "work")
    assert not (tmp_path / "work").is_symlink()
    assert unharmed(theirs)


def test_a_folder_that_others_could_write_to_is_closed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o777)
    make_own(tmp_path / "work")
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "work").mkdir()
    owner = (tmp_path / "work").stat().st_uid
    monkeypatch.setattr(own_folder.os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(own_folder, "_uid_here", lambda path: owner + 1)
    with pytest.raises(DiskError, match=r"another user \(number \d+\).*remove it"):
        make_own(tmp_path / "work")
    # Where every new file has one owner, it says nothing (CIFS, FUSE).
    monkeypatch.setattr(own_folder, "_uid_here", lambda path: owner)
    make_own(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_names_in_it_are_looked_at(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "next").symlink_to(theirs)
    os.mkfifo(tmp_path / "journal")
    expect(tmp_path / "next", folder=True)
    expect(tmp_path / "journal", folder=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]
    with pytest.raises(DiskError, match="expected a file"):
        expect(theirs, folder=False)
    assert unharmed(theirs)


@pytest.mark.parametrize("kind", ["dangling", "link", "second name", "fifo"])
def test_a_planted_lock_harms_nobody(tmp_path: Path, theirs: Path, kind: str) -> None:
    path = tmp_path / "lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "second name":
        path.hardlink_to(theirs / "text")
    else:
        path.symlink_to(theirs / ("text" if kind == "link" else "nothing"))
    with pytest.raises(DiskError, match="lock"), FileLock(path, "busy", "wait"):
        pass
    assert unharmed(theirs)


def test_a_lock_whose_folder_vanishes_again_and_again_is_busy(tmp_path: Path, monkeypatch) -> None:
    lock = FileLock(tmp_path / "work" / "lock", "busy", "wait", make_folder=True)
    monkeypatch.setattr(FileLock, "_open", lambda self: None)
    with pytest.raises(BusyError):
        lock.acquire()


def test_nothing_is_removed_behind_a_link(tmp_path: Path, theirs: Path) -> None:
    root = tmp_path / "root"
    (root / "own" / "deep").mkdir(parents=True)
    (root / "own" / "deep" / "a").write_bytes(b"12345")
    (root / "own" / "away").symlink_to(theirs)
    (root / "link").symlink_to(theirs)
    assert remove_below(root, "link/text") == 0
    assert remove_below(root, "own/away/text") == 0
    assert remove_below(root, "nothing/at/all") == 0
    assert remove_below(root, "own") >= 5
    assert remove_below(root, "link") > 0  # the link itself
    assert list(root.iterdir()) == []
    remove_tree(root)
    remove_tree(root)
    assert unharmed(theirs)


def test_nothing_is_written_through_a_link_and_no_fifo_is_waited_for(
    tmp_path: Path, theirs: Path
) -> None:
    (tmp_path / "link").symlink_to(theirs / "text")
    os.mkfifo(tmp_path / "fifo")
    for mode in ("wb", "rb+", "ab"):
        with pytest.raises(OSError, match="link"):
            open_file(tmp_path / "link", mode)
    for mode in ("rb", "rb+"):
        with pytest.raises(OSError, match="regular"):
            open_file(tmp_path / "fifo", mode)
    assert unharmed(theirs)
    assert read_small(tmp_path / "link", 5) == b"years "  # one byte more than allowed
    assert read_small(tmp_path / "nothing", 5) is None
