"""Local files: read, write and copy at an offset, hash, link, remove, count bytes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Bytes read or copied at a time.
PIECE = 1 << 20


def lexists(path: Path) -> bool:
    """Whether a path exists, even as a link to nowhere."""
    return path.is_symlink() or path.exists()


def read_at(file: io.FileIO, offset: int, out: Any) -> int:
    """Fill ``out`` from ``offset`` on; returns how many bytes there were.

    Raises:
        OSError: The file cannot be read.
    """
    view = memoryview(out).cast("B")
    file.seek(offset)
    at = 0
    while at < len(view):
        count = file.readinto(view[at:])
        if not count:
            break
        at += count
    return at


def read_all_at(file: io.FileIO, offset: int, out: Any) -> None:
    """Fill ``out`` from ``offset`` on.

    Raises:
        OSError: The file ends before that, or cannot be read.
    """
    if read_at(file, offset, out) < memoryview(out).nbytes:
        raise OSError(errno.EIO, "the file is shorter than expected", str(file.name))


def read_from(path: str | Path, offset: int, out: Any) -> int:
    """`read_at` of a file that is opened for this: a model may have more files than can be open.

    Raises:
        OSError: The file cannot be opened or read.
    """
    with open_file(path, "rb") as file:
        return read_at(file, offset, out)


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


def open_file(path: str | Path, mode: str) -> io.FileIO:
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
        read_all_at(source, start + at, part)
        write_at(target, offset + at, part)
        at += len(part)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def free_bytes(path: Path) -> int:
    """Free bytes of the file system of an absolute path, or of its nearest parent."""
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
