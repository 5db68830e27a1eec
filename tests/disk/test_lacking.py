"""File systems that refuse calls: what can be done without is done without."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from p2u.disk import durable, files, locks
from p2u.disk.access import set_mode
from p2u.disk.errors import disk_error
from p2u.disk.lacking import LACKING, lacks
from p2u.disk.locks import FileLock

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")

EVERY = sorted(LACKING)


def refusing(code: int):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", EVERY)
def test_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", refusing(code))
    durable.write_file(tmp_path / "file", b"bytes")
    durable.sync_file(tmp_path / "file")
    durable.sync_folders(tmp_path)
    durable.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_failures_of_a_sync_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        durable.write_file(tmp_path / "file", b"bytes")


def test_a_folder_that_cannot_be_listed_is_not_synced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    durable.sync_folder(tmp_path)


@pytest.mark.parametrize("code", [*EVERY, errno.ENOLCK, errno.EPERM])
def test_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", refusing(code))
    with FileLock(tmp_path / "lock", "busy", "wait") as lock:
        assert lock.held
        assert locks.try_lock(os.open(tmp_path / "lock", os.O_RDWR)) is None


@pytest.mark.parametrize("code", [*EVERY, errno.EPERM])
def test_modes_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    source = tmp_path / "source"
    source.write_text("text")
    source.chmod(0o600)
    for name in ("chmod", "utime", "link"):
        monkeypatch.setattr(os, name, refusing(code))
    monkeypatch.setattr(Path, "chmod", refusing(code))
    set_mode(source, 0o644)
    files.link_or_copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "text"


def test_free_space_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", refusing(errno.ENOSYS))
    assert files.free_bytes(tmp_path) == sys.maxsize
    nothing = type("Usage", (), {"total": 0, "free": 0})()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nothing)
    assert files.free_bytes(tmp_path / "not" / "there") == sys.maxsize
    full = type("Usage", (), {"total": 9, "free": 0})()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert files.free_bytes(tmp_path) == 0


def test_what_cannot_be_done_without_is_named() -> None:
    error = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    assert lacks(error)
    assert "choose a folder on another one" in str(disk_error(error, "x"))
