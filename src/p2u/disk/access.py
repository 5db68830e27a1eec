"""Modes and owners: a new file that takes another one's place is as private as that one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from p2u.disk.lacking import lacks

#: Bits of a mode that say who may do what.
_BITS = 0o7777


def take_over(path: Path, former: os.stat_result) -> None:
    """Give a new file or folder the mode of the one that it replaces, and its owner if possible.

    Args:
        path: The new one.
        former: Of the one that it replaces.

    Raises:
        OSError: It is not there. A file system that knows no modes or owners is no error.
    """
    found = path.lstat()
    if os.name == "posix" and (found.st_uid, found.st_gid) != (former.st_uid, former.st_gid):
        for uid, gid in ((former.st_uid, former.st_gid), (-1, former.st_gid)):
            with contextlib.suppress(OSError):  # only root may give files away
                os.chown(path, uid, gid, follow_symlinks=False)
                break
    set_mode(path, stat.S_IMODE(former.st_mode))


def restrict(path: Path, bits: int) -> None:
    """Take all bits but these from a file's mode; its owner keeps theirs."""
    mode = stat.S_IMODE(path.lstat().st_mode)
    set_mode(path, mode & (bits | stat.S_IRWXU))


def common_bits(paths: Iterable[str | Path]) -> int:
    """The bits of a mode that all of these files have; those that are missing do not count."""
    bits = _BITS
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            bits &= stat.S_IMODE(Path(path).stat().st_mode)
    return bits


def restrict_all(folder: Path, bits: int) -> None:
    """`restrict` all files below a folder."""
    for name, _, files in os.walk(folder):
        for file in files:
            restrict(Path(name, file), bits)


def set_mode(path: Path, mode: int) -> None:
    """Change a mode, unless it is that already; does nothing where there are none (CIFS, FUSE)."""
    if stat.S_IMODE(path.lstat().st_mode) != mode & _BITS:
        try:
            path.chmod(mode & _BITS)
        except OSError as error:
            if not lacks(error, errno.EPERM, errno.EACCES):
                raise
