"""Durable writes: what is synced when, and what a failure leaves behind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from p2u.disk import durable
from p2u.disk.durable import (
    EarlySync,
    FileReplacement,
    replace_file,
    sync_folder,
    sync_folders,
    write_file,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order: names of files, and of folders with a slash."""
    found: list[str] = []
    rename = Path.replace

    def fsync(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        found.append(f"{name}/" if stat.S_ISDIR(os.fstat(fd).st_mode) else name)

    def replace(self: Path, target: Path) -> Path:
        found.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return found


def failing(monkeypatch: pytest.MonkeyPatch, name: str, *, folders: bool) -> None:
    """Let fsync fail for folders, or for files."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) == folders:
            raise OSError(getattr(errno, name), name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "EBADF"])
def test_folders_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failing(monkeypatch, name, folders=True)
    sync_folder(tmp_path)
    replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced there")
def test_a_folder_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "EIO", folders=True)
    with pytest.raises(OSError, match="EIO"):
        sync_folder(tmp_path)


def test_what_is_synced_when(tmp_path: Path, calls: list[str]) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    replace_file(folder / "a", b"1")
    assert calls == ["a.part", "a.part -> a", "f/"]
    calls.clear()
    write_file(folder / "b", b"12", bytearray(b"3"), memoryview(b"4"))
    assert calls == ["b"]
    assert (folder / "b").read_bytes() == b"1234"
    calls.clear()
    durable.sync_file(folder / "b")
    (folder / "c" / "d").mkdir(parents=True)
    sync_folders(folder)
    assert calls == ["b", "f/", "c/", "d/"]


def test_a_new_file_only(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "a", b"2", new=True)
    write_file(tmp_path / "a", b"3")
    assert (tmp_path / "a").read_bytes() == b"3"


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None) -> None:
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    failing(monkeypatch, "ENOSPC", folders=False)
    with pytest.raises(OSError, match="ENOSPC") as caught:
        replace_file(path, b"new" * 10_000)
    assert caught.value.filename == str(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_the_name_leads_to_the_old_bytes_until_all_new_ones_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    made = FileReplacement(path)
    made.write(b"ne")
    assert path.read_bytes() == b"old"
    made.write(b"w")
    made.commit()
    assert path.read_bytes() == b"new"
    made.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    made = FileReplacement(path, tmp_path / "other")
    made.write(b"newer")
    assert (tmp_path / "other").exists()
    made.discard()
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a.part").symlink_to("precious")
    replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "precious"]


def test_errors_name_the_file_and_not_its_part(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        replace_file(tmp_path / "missing" / "a", b"1")
    assert caught.value.filename == str(tmp_path / "missing" / "a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught_too:
        replace_file(tmp_path / "folder", b"1")
    assert caught_too.value.filename == str(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_an_early_sync_takes_the_files_written_since_the_last_one(
    tmp_path: Path, calls: list[str]
) -> None:
    early = EarlySync(every=100)
    for name in "abc":
        (tmp_path / name).touch()
    early.wrote(tmp_path / "a", 40)
    early.wrote(tmp_path / "b", 40)
    early.end()
    assert calls == []
    early.wrote(tmp_path / "a", 40)
    early.end()
    assert sorted(calls) == ["a", "b"]
    early.wrote(tmp_path / "c", 200)
    early.end()
    assert calls[2:] == ["c"]


def test_an_early_sync_that_fails_is_an_error_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "EIO", folders=False)
    (tmp_path / "a").touch()
    early = EarlySync(every=1)
    early.wrote(tmp_path / "a", 1)
    with pytest.raises(OSError):
        early.end()
