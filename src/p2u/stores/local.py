"""The local store: read objects from a folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from p2u.disk.errors import disk_error
from p2u.errors import FormatError, NotFoundError, UsageError
from p2u.package.paths import MANIFEST_KEY, check_path
from p2u.stores.base import (
    PIECE,
    Store,
    StoreOptions,
    check_range,
    closed_error,
    too_large,
    too_short,
)

# O_NONBLOCK: opening a FIFO must not hang. O_NOFOLLOW: the path is resolved already.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)


class LocalStore(Store):
    """The files below a folder; symbolic links that lead out of it are refused.

    Args:
        path: The folder, or its ``p2u.json``.

    Raises:
        NotFoundError: There is no such folder.
        UsageError: It is a file of another name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = os.fspath(path)
        if "\0" in self.url:
            raise UsageError("a path cannot have a NUL character", file=ascii(self.url))
        self._closed = False
        with _disk_errors(self.url):
            folder, name = os.path.split(self.url)
            if name == MANIFEST_KEY and not Path(self.url).is_dir():
                self.url = folder or "."
            self._root = Path(os.path.realpath(self.url))
            if self._root.is_dir():
                return
            is_file = self._root.exists()
        if is_file:
            raise UsageError(
                f"is a file, expected a package folder or its {MANIFEST_KEY}", file=self.url
            )
        raise NotFoundError("no such folder", file=self.url, hint="Check the path")

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        with self.open(key) as file, _disk_errors(self._name(key)):
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise too_large(self._name(key), limit, size)
            data = bytearray()
            while piece := file.read(min(PIECE, limit + 1 - len(data))):
                data += piece
                if len(data) > limit:  # it grew since fstat
                    raise too_large(self._name(key), limit)
            return bytes(data)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        check_path(key, "key")
        check_range(start, length)
        return self._stream(key, start, length)

    def _stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        if length == 0:
            return
        name = self._name(key)
        with self.open(key) as file:
            with _disk_errors(name):
                file.seek(start)
            left = length
            while left:
                if self._closed:
                    raise closed_error(name)
                with _disk_errors(name):
                    piece = file.read(min(PIECE, left))
                    if not piece:
                        raise too_short(name, os.fstat(file.fileno()).st_size, start, length)
                left -= len(piece)
                yield piece

    def open(self, key: str) -> FileIO:
        """The regular file of a key, unbuffered, in binary mode; the caller closes it.

        Raises:
            NotFoundError, DiskError, FormatError: see `Store.read`.
        """
        if self._closed:
            raise closed_error(self._name(key))
        parts = check_path(key, "key")
        name = self._name(key)
        with _disk_errors(name):
            path = Path(os.path.realpath(self._root.joinpath(*parts)))
            if not path.is_relative_to(self._root):
                raise FormatError(
                    "leads out of the package folder",
                    file=name,
                    hint="Replace the symbolic link by the file itself",
                )
            descriptor = os.open(path, _FLAGS)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return FileIO(descriptor, "rb")
            os.close(descriptor)
        raise NotFoundError("is not a regular file", file=name)

    def close(self) -> None:
        """Transfers under way end with a StoreError at their next piece."""
        self._closed = True

    def _name(self, key: str) -> str:
        return str(Path(self.url, *key.split("/")))


def open_file_url(url: str, _: StoreOptions) -> LocalStore:
    """The folder that a file URL means.

    Raises:
        UsageError: It names another host.
        The errors of `LocalStore`.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(
            "a file URL must not name another host",
            file=url,
            hint=f"Write file:///path; {MANIFEST_KEY} or its folder",
        )
    if os.name == "nt":
        from urllib.request import url2pathname

        return LocalStore(url2pathname(parts.path))
    return LocalStore(unquote(parts.path))


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP)


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    """Turn OSError into NotFoundError or DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise NotFoundError(
                f"not found ({error.strerror or error})",
                file=name,
                hint="The package is incomplete; copy it again",
            ) from error
        raise disk_error(error, name, "read") from error
