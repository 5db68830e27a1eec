"""Disk errors: what a message names, and which remedy it gives."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from p2u.disk.errors import RESUMES, TRY_AGAIN, UNPUBLISHED, disk_error, disk_errors
from p2u.errors import DiskError


@pytest.mark.parametrize("full", [RESUMES, UNPUBLISHED, TRY_AGAIN])
@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT"])
def test_a_full_disk(full: str, name: str) -> None:
    with pytest.raises(DiskError) as caught, disk_errors("file", "write", full):
        raise OSError(getattr(errno, name), "it is full")
    assert str(caught.value) == f"file: cannot write: it is full. {full}"


@pytest.mark.parametrize(
    ("code", "doing", "hint"),
    [
        ("EACCES", "read", "Check its permissions"),
        ("EPERM", "write", "permissions of the folder"),
        ("EROFS", "write", "permissions of the folder"),
        ("EBUSY", "write", "mount point"),
        ("EXDEV", "write", "mount point"),
        ("EIO", "read", "the disk"),
    ],
)
def test_remedies(code: str, doing: str, hint: str) -> None:
    number = getattr(errno, code)
    error = disk_error(OSError(number, os.strerror(number)), "file", doing)
    assert hint in str(error.hint)
    assert f"cannot {doing}: {os.strerror(number)}" in str(error)


def test_the_file_that_the_system_names(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path, "read"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.file == str(tmp_path / "missing")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path, "read"):
        os.stat(os.fsencode(tmp_path / "missing"))  # noqa: PTH116
    assert caught.value.file == str(tmp_path / "missing")
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path, "read"):
        raise OSError("no number, no name")
    assert caught.value.file == str(tmp_path)
    assert "no number, no name" in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), disk_errors("file"):
        raise ZeroDivisionError
