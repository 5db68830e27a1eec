"""Replace a folder by another one, in one step where the system can.

Python has no call for an exchange: Linux has ``renameat2(RENAME_EXCHANGE)``, macOS ``renamex_np(
RENAME_SWAP)``. With them a path leads to the old folder or to the new one at any moment.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from p2u.disk.durable import sync_folder
from p2u.disk.files import lexists
from p2u.disk.lacking import lacks

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2

#: The folder cannot be moved: a mount point, another file system, a layer of a container's image,
#: a parent that is closed to us.
FIXED = {errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS}


def replace_folder(new: Path, target: Path, aside: Path, *, sync: bool = True) -> Path | None:
    """Put a folder, which is complete and on the disk, in the place of another one.

    Where the system cannot exchange folders there is a moment without one: a process killed then
    leaves the old folder in ``aside`` and the new one where it was.

    Args:
        new: The new folder.
        target: Its place, on the same file system; there need not be anything.
        aside: A free path, for the old folder.
        sync: Whether to bring the change to the disk.

    Returns:
        Where the old folder is now, ``new`` or ``aside``; None if there was none.

    Raises:
        OSError: It cannot be moved; the old folder is in its place.
    """
    if not lexists(target):
        new.rename(target)
        if sync:
            sync_folder(target.parent)
        return None
    if exchange(str(new), str(target)):
        left = new
    else:
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
        left = aside
    if sync:
        sync_folder(target.parent)
    return left


def exchange(first: str, second: str) -> bool:
    """Exchange two existing paths on one file system in one step.

    Returns:
        False if this is not supported here; nothing has changed then.

    Raises:
        OSError: It failed for another reason (permission, other file system, not there).
    """
    if sys.platform not in ("linux", "darwin"):
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    one, two = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "linux":
            status = libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE)
        else:
            status = libc.renamex_np(one, two, _RENAME_SWAP)
    except AttributeError:  # a C library before these calls, such as musl's
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    error = OSError(code, os.strerror(code), first, None, second)
    if lacks(error):
        return False
    raise error
