"""Copies of files that share their blocks with the original until one of the two is written to."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

#: FICLONE of Linux: ioctl_ficlone(2).
_FICLONE = 0x40049409


def reflink(source: Path, target: Path, mode: int = 0o666) -> bool:
    """Make a new file that shares the blocks of another one, if the file system can.

    Both are separate files: what is written to one of them never shows in the other.

    Args:
        source: A regular file.
        target: Must not exist.
        mode: Permissions, less the umask.

    Returns:
        Whether it was done. If not, there is no target: another file system, or one without
        reflinks.

    Raises:
        OSError: The source cannot be read, or the target exists or cannot be made.
    """
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    with open(source, "rb") as old:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            fcntl.ioctl(fd, _FICLONE, old.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                target.unlink()
            return False
        finally:
            os.close(fd)
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes to a new one, as a reflink where that is possible.

    Raises:
        OSError: It cannot be read or written, or the target exists.
    """
    if not reflink(source, target):
        shutil.copyfile(source, target)
