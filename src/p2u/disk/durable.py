"""Durable writes: files and folders that survive a power cut, files replaced in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from p2u.disk.access import take_over
from p2u.disk.lacking import lacks

Bytes = bytes | bytearray | memoryview


def _fsync(fd: int, *also: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if not lacks(error, *also):
            raise


def sync(stream: IO[bytes]) -> None:
    """Wait until all bytes written to an open file are on the disk, if that is possible."""
    stream.flush()
    _fsync(stream.fileno())


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk, if that is possible."""
    with open(path, "rb+") as file:
        _fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk; does nothing where that is impossible."""
    if os.name != "posix":
        return
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that can be written to, but not be listed
        return
    try:
        _fsync(fd, errno.EBADF)
    finally:
        os.close(fd)


def sync_folders(path: Path) -> None:
    """`sync_folder` for a folder and all folders below it."""
    for folder, _, _ in os.walk(path):
        sync_folder(Path(folder))


def write_file(path: Path, *parts: Bytes, new: bool = False) -> None:
    """Write a file and bring its bytes to the disk; its name may still be lost.

    Args:
        path: The file.
        parts: Its bytes, back to back.
        new: Whether it must not exist yet.

    Raises:
        OSError: It cannot be written, or exists.
    """
    with open(path, "xb" if new else "wb") as file:
        for part in parts:
            file.write(part)
        sync(file)


class EarlySync:
    """Brings files to the disk while they are written, so that the last sync has little to do.

    Args:
        every: Bytes after which the files written meanwhile are synced, in a thread.
    """

    def __init__(self, every: int = 128 << 20) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._paths: set[Path] = set()
        self._count = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, path: Path, count: int) -> None:
        """So many bytes were written to a file. In any thread."""
        with self._lock:
            self._paths.add(path)
            self._count += count
            if self._count < self._every or (self._thread and self._thread.is_alive()):
                return
            paths, self._paths, self._count = self._paths, set(), 0
            self._thread = threading.Thread(
                target=self._sync, args=(paths,), daemon=True, name="p2u-sync"
            )
            self._thread.start()

    def _sync(self, paths: set[Path]) -> None:
        try:
            for path in paths:
                sync_file(path)
        except OSError as error:
            # The system reports a failed write once.
            self._error = self._error or error

    def end(self) -> None:
        """Wait for the thread.

        Raises:
            OSError: A file could not be synced.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error


def replace_file(path: Path, data: bytes, part: Path | None = None) -> None:
    """Write a file in one step: its name leads to all of the old bytes or to all of the new ones.

    Args:
        path: The file; it need not exist.
        data: Its new bytes.
        part: The file's name until it is complete, see `FileReplacement`.

    Raises:
        OSError: It cannot be written; the old bytes are there still.
    """
    made = FileReplacement(path, part)
    try:
        made.write(data)
        made.commit()
    except OSError:
        made.discard()
        raise


class FileReplacement:
    """A file in the making that takes the place of another one, and its mode, when it is complete.

    Args:
        path: The file's place.
        part: The file's name until it is complete, in the same folder: by default the one of the
            file with ``.part`` behind it, which only one process at a time may write. A file that
            has this name is removed.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path, part: Path | None = None) -> None:
        self._path = path
        self._part = part or path.with_name(f"{path.name}.part")
        with self._own_name():
            self._part.unlink(missing_ok=True)
            self._file = open(self._part, "xb")  # noqa: SIM115 - closed in commit and discard

    def write(self, data: Bytes) -> None:
        """Append bytes."""
        self._file.write(data)

    def commit(self) -> None:
        """Bring the file to the disk and to its place."""
        with self._own_name():
            with contextlib.suppress(FileNotFoundError):
                take_over(self._part, self._path.stat())
            sync(self._file)
            self._file.close()
            self._part.replace(self._path)
            sync_folder(self._path.parent)

    def discard(self) -> None:
        """Remove the file, unless it has taken its place."""
        with contextlib.suppress(OSError):  # a full disk, which our caller has met already
            self._file.close()
        self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _own_name(self) -> Iterator[None]:
        """Let errors name the file that was asked for."""
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)
            raise
