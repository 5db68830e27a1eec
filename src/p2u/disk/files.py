"""Local files: read and write at an offset, make durable, and say clearly what went wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2u.errors import DiskError

#: Bytes read or copied at a time.
PIECE = 1 << 20

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def disk_errors(path: Path, what: str = "written") -> Iterator[None]:
    """Turn OSError into DiskError with a reason and a hint.

    Args:
        path: For the message, if the error names none.
        what: "read" or "written".
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_SPACE:
            hint = "Free some space and run the command again: it goes on where it was"
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            hint = "Check the permissions of the folder and of its parent"
        elif error.errno in (errno.EXDEV, errno.EBUSY):
            hint = "The target is a mount point; choose a folder below it"
        else:
            hint = "Check the path and the disk"
        name = error.filename if isinstance(error.filename, str) else str(path)
        raise DiskError(f"could not be {what} ({reason})", file=name, hint=hint) from error


def lexists(path: Path) -> bool:
    """Whether there is anything, be it a link to nowhere."""
    return path.is_symlink() or path.exists()


def read_at(file: io.FileIO, offset: int, out: Any) -> None:
    """Fill ``out`` from ``offset`` on.

    Raises:
        OSError: The file ends before that, or cannot be read.
    """
    view = memoryview(out).cast("B")
    file.seek(offset)
    at = 0
    while at < len(view):
        count = file.readinto(view[at:])
        if not count:
            raise OSError(errno.EIO, "the file is shorter than expected", str(file.name))
        at += count


def write_at(file: io.FileIO, offset: int, data: Any) -> None:
    """Write all of ``data`` at ``offset``.

    Raises:
        OSError: It cannot be written.
    """
    view = memoryview(data).cast("B")
    file.seek(offset)
    at = 0
    while at < len(view):
        at += file.write(view[at:])


def open_file(path: Path, mode: str) -> io.FileIO:
    """A regular file, unbuffered. ``mode``: ``"rb"``, ``"rb+"`` or ``"wb"``."""
    file = io.FileIO(path, mode)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def hash_file(path: Path, check: Callable[[], None]) -> str:
    """SHA-256 of a file in hex; ``check`` is called now and then and may raise."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE))
    with open_file(path, "rb") as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            check()
    return digest.hexdigest()


def copy_range(source: io.FileIO, start: int, target: io.FileIO, offset: int, length: int) -> None:
    """Copy ``length`` bytes from ``start`` on in one file to ``offset`` in another."""
    buffer = memoryview(bytearray(min(PIECE, length)))
    at = 0
    while at < length:
        part = buffer[: min(PIECE, length - at)]
        read_at(source, start + at, part)
        write_at(target, offset + at, part)
        at += len(part)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_dir(path: Path) -> None:
    """Wait until the names in a folder are on the disk; does nothing where that is not possible."""
    if os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file such that its name holds the old or the new bytes, never a mixture."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def free_bytes(path: Path) -> int:
    """Free space of the file system that an absolute path, or its nearest parent, lies on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def allocated_bytes(path: Path) -> int:
    """Bytes that the files below a folder take on the disk; 0 if it is not there."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                found = Path(folder, name).lstat()
                # Other names of one file take nothing.
                if found.st_nlink == 1:
                    total += getattr(found, "st_blocks", -(-found.st_size // 512)) * 512
    return total
