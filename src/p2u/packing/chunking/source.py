"""Reading the model, and what a failing disk is called."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from p2u.errors import DiskError, IntegrityError
from p2u.formats import ScannedModel

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def disk_errors(file: str, doing: str) -> Iterator[None]:
    """Turn OSError into DiskError.

    Args:
        file: The file concerned, unless the error names one.
        doing: ``"read"`` or ``"write"``.
    """
    try:
        yield
    except OSError as error:
        hint = "Check the disk"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some disk space; nothing was published"
        elif isinstance(error, PermissionError):
            hint = "Check the permissions"
        raise DiskError(
            f"cannot {doing}: {error.strerror or error}",
            file=os.fsdecode(error.filename) if error.filename else file,
            hint=hint,
        ) from error


def read_at(path: str, offset: int, out: memoryview) -> int:
    """Fill ``out`` from a file, from ``offset`` on; returns how much of it there was.

    Opens the file anew, which costs little beside a chunk: a model may have more files than a
    process may hold open.
    """
    descriptor = os.open(path, _FLAGS)
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        stream.seek(offset)
        at = 0
        while at < len(out):
            count = stream.readinto(out[at:])
            if not count:
                break
            at += count
        return at


class Scratch(threading.local):
    """Memory that a thread uses again and again: new memory costs more than the work in it."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def view(self, size: int) -> memoryview:
        """``size`` bytes of any content; the thread's next call gives the same ones again."""
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]


class Source:
    """The files of a model, by number. Thread-safe; holds no file open."""

    def __init__(self, model: ScannedModel) -> None:
        self.files = model.files
        self._paths = [model.locate(file.path) for file in model.files]

    def read_into(self, file: int, offset: int, out: memoryview) -> None:
        """Fill ``out`` from a file.

        Raises:
            DiskError: It cannot be read.
            IntegrityError: It has become shorter.
        """
        entry = self.files[file]
        with disk_errors(entry.path, "read"):
            count = read_at(self._paths[file], offset, out)
        if count < len(out):
            raise IntegrityError(
                f"it ended at byte {offset + count}, of {entry.size}",
                file=entry.path,
                hint="It was changed while it was packed: pack again",
            )

    def read(self, file: int, offset: int, size: int) -> bytearray:
        """The bytes of a file from ``offset`` on; raises as `read_into`."""
        out = bytearray(size)
        self.read_into(file, offset, memoryview(out))
        return out
