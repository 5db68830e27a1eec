"""Read the structure of a large model file with small reads, never the weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import BinaryIO

from p2u.disk.errors import disk_error
from p2u.errors import FormatError

DAMAGED = "The file is damaged or incomplete: fetch it again"
GIT_LFS = "This is a Git LFS pointer, not the file itself: run `git lfs pull`"
LFS_HEAD = b"version https://git-lfs"

#: Bytes read at once: structure lies together, weights are skipped.
WINDOW = 1 << 16


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


#: Opens a file of a model.
Opener = Callable[[str], BinaryIO]
_opener: ContextVar[Opener] = ContextVar("opener", default=_open)


def open_structure(path: str) -> BinaryIO:
    """Open a file of a model to read its structure.

    Raises:
        OSError: It cannot be opened.
    """
    return _opener.get()(path)


@contextmanager
def opened_by(opener: Opener) -> Iterator[None]:
    """Within the block, the bytes of files are elsewhere than where their names and sizes are."""
    token = _opener.set(opener)
    try:
        yield
    finally:
        _opener.reset(token)


def size_of(stream: BinaryIO) -> int:
    """Bytes of an open file, which is then at its beginning."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


class Reader:
    """A file of unknown origin, read through a window.

    Attributes:
        file: What messages call it.
        size: Bytes.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self.file = file
        self.size = size_of(stream)
        self._stream = stream
        self._base = 0
        self._data = b""

    def wrong(self, message: str, tensor: str | None = None) -> FormatError:
        """The error to raise where the file is not what it should be."""
        hint = GIT_LFS if self.read(0, min(self.size, 23)) == LFS_HEAD else DAMAGED
        return FormatError(message, file=self.file, tensor=tensor, hint=hint)

    def window(self, at: int) -> tuple[bytes, int]:
        """Some bytes that include those from ``at`` on (16 at least, if the file has them).

        Args:
            at: Where, in bytes; at most ``size``.

        Returns:
            The bytes, and where in the file they begin.
        """
        if not self._base <= at <= self._base + len(self._data) - 16:
            self._stream.seek(at)
            self._data, self._base = self._stream.read(WINDOW), at
        return self._data, self._base

    def read(self, at: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``at`` on; the caller has bounded both.

        Raises:
            FormatError: The file ends before.
        """
        data, base = self.window(at)
        found = data[at - base : at - base + count]
        if len(found) < count:
            self._stream.seek(at)
            found = self._stream.read(count)
        if len(found) < count:
            raise FormatError(
                f"it ends at byte {at + len(found)}, {count - len(found)} more are needed there",
                file=self.file,
                hint=DAMAGED,
            )
        return found


@contextmanager
def reading(path: str, file: str) -> Iterator[Reader]:
    """Open a file to read its structure.

    Args:
        path: Where the file is.
        file: What messages call it.

    Raises:
        DiskError: It cannot be opened or read.
    """
    try:
        with open_structure(path) as stream:
            yield Reader(stream, file)
    except OSError as error:
        raise disk_error(error, file, "read") from error
