"""Folders of our own next to a user's: what others put in their place is not taken for ours.

Whoever may write to the parent (a group's folder, an unpacked archive) can leave a link or a folder
of the expected name there. We write to such folders and clear them, so they are looked at first.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from p2u.errors import DiskError


def make_own(path: Path) -> None:
    """Make a folder that only we may use, or take one that an earlier run of ours has left.

    A link of that name is removed; nothing that it leads to is touched.

    Raises:
        DiskError: It belongs to another user.
        OSError: It cannot be made.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(0o700)
    except FileExistsError:
        _take(path)


def _take(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(20, "is a file, expected a folder of P2U's", str(path))
    if os.name != "posix":
        return
    if found.st_uid != os.geteuid() and _uid_here(path) != found.st_uid:
        raise DiskError(
            f"belongs to another user (number {found.st_uid}), and its content would be trusted",
            file=str(path),
            hint="It may be left over from a run of theirs; remove it, or run as that user",
        )
    if found.st_mode & 0o022:
        with contextlib.suppress(OSError):
            path.chmod(0o700)


def _uid_here(folder: Path) -> int:
    """The owner of new files in a folder: some file systems know only one (CIFS, FUSE)."""
    path = folder / f".{os.urandom(8).hex()}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)
        path.unlink()


def expect(path: Path, *, folder: bool) -> None:
    """See that a name of ours leads to what we put there, or to nothing. A link is removed.

    Args:
        path: In a folder of our own.
        folder: Whether it is to be a folder; else a file.

    Raises:
        DiskError: It is something else, which is not ours to remove.
        OSError: It cannot be looked at.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        path.unlink()
    elif stat.S_ISDIR(mode) != folder:
        raise DiskError(
            f"is a {'file' if folder else 'folder'}, expected a {'folder' if folder else 'file'} "
            "of P2U's",
            file=str(path),
            hint="P2U did not make it; move it away",
        )
