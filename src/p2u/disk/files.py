"""Local files: read, write and copy at an offset, hash, link, remove, count bytes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2u.disk.lacking import lacks

#: Bytes read or copied at a time.
PIECE = 1 << 20
#: Flags for `os.open`: fail where the name is a link, and do not wait for a FIFO's other end.
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NOFOLLOW


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


def read_small(path: Path, limit: int) -> bytes | None:
    """All of a small regular file; None if there is none. Of a larger one, ``limit`` + 1 bytes.

    Raises:
        OSError: It cannot be read, or is something else.
    """
    try:
        with open_file(path, "rb") as file:
            data = bytearray()
            while piece := file.read(min(PIECE, limit + 1 - len(data))):
                data += piece
            return bytes(data)
    except (FileNotFoundError, NotADirectoryError):
        return None


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
    """A regular file, unbuffered; what is written to is never reached by a link.

    Args:
        path: The file. A FIFO in its place is an error, and nobody waits for its other end.
        mode: ``"rb"``, ``"rb+"``, ``"ab"`` or ``"wb"``.

    Raises:
        OSError: It cannot be opened, or is something else.
    """
    more = NONBLOCK if mode == "rb" else NONBLOCK | NOFOLLOW
    file = io.FileIO(path, mode, opener=lambda name, flags: os.open(name, flags | more, 0o666))
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
        shutil.copyfile(source, target, follow_symlinks=False)
        with contextlib.suppress(OSError):  # where there are no modes or times
            shutil.copystat(source, target, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder, if it is there; links are not followed."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_below(root: Path, name: str) -> int:
    """Remove a file or folder below a root, by descriptor: a link on its way leads nowhere else.

    Args:
        root: A folder.
        name: Relative to it, checked by `p2u.package.paths.check_path`.

    Returns:
        Bytes that were freed; 0 if it is not there, or is reached by a link only.

    Raises:
        OSError: It cannot be removed.
    """
    *folders, last = name.split("/")
    if os.unlink not in os.supports_dir_fd:  # Windows, where links need a right of their own
        size = allocated_bytes(root / name)
        if not any((root / "/".join(folders[:n])).is_symlink() for n in range(1, len(folders) + 1)):
            remove_tree(root / name)
        return size
    at = os.open(root, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        for part in folders:
            inner = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        return _remove_at(at, last)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        error.filename = str(root / name)
        raise
    finally:
        os.close(at)


def _remove_at(folder: int, name: str) -> int:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=folder)
        return found.st_size
    inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        freed = sum([_remove_at(inner, entry) for entry in os.listdir(inner)])  # noqa: PTH208
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)
    return freed


def free_bytes(path: Path) -> int:
    """Free bytes of the file system of an absolute path, or of its nearest parent.

    Where the file system does not know, as many as can be.
    """
    while not path.exists():
        path = path.parent
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        if not lacks(error):
            raise
        return sys.maxsize
    # Some network file systems say that they have no blocks at all.
    return usage.free if usage.total else sys.maxsize


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
