"""The local store: the files below a folder, to read and to write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from p2u.disk.durable import sync, sync_folder
from p2u.disk.errors import UNPUBLISHED, disk_error, disk_errors
from p2u.errors import FormatError, NotFoundError, P2UError, UsageError
from p2u.package.paths import MANIFEST_KEY, RESERVED, check_path
from p2u.stores.base import (
    PIECE,
    StoreOptions,
    check_range,
    closed_error,
    too_large,
    too_short,
)
from p2u.stores.writable import ABSENT, Content, StoredObject, WritableStore, conflict

#: Beginning of the names of objects in the making, and the age in seconds of left-overs.
_PART, _STALE = f"{RESERVED}-put-", 24 * 3600.0

# O_NONBLOCK: opening a FIFO must not hang. O_NOFOLLOW: the path is resolved already.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)


class LocalStore(WritableStore):
    """The files below a folder; symbolic links that lead out of it are refused.

    A put on condition takes the package's lock, as publishers on this machine do.

    Args:
        path: The folder, or its ``p2u.json``.

    Raises:
        NotFoundError: There is no such folder.
        FormatError: It is a file of another name.
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
            raise FormatError(
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

    def put(self, key: str, content: Content, *, tag: str | None = None) -> None:
        """See `WritableStore.put`; also raises BusyError while somebody publishes here."""
        path, name = self._place(key), self._name(key)
        if tag in (None, ABSENT):
            self._write(path, content, name, new=tag == ABSENT)
            return
        from p2u.stores.package_lock import package_lock  # whoever only reads needs none

        with package_lock(self._root):
            try:
                found = self.read_tagged(key, limit=_MOST)[1]
            except NotFoundError:
                found = ABSENT
            if found != tag:
                raise conflict(name, tag or ABSENT)
            self._write(path, content, name, new=False)

    def read_tagged(self, key: str, *, limit: int) -> tuple[bytes, str]:
        """See `WritableStore.read_tagged`."""
        data = self.read(key, limit=limit)
        return data, hashlib.sha256(data).hexdigest()

    def find(self, key: str) -> StoredObject | None:
        """See `WritableStore.find`."""
        try:
            with self.open(key) as file:
                return StoredObject(key, os.fstat(file.fileno()).st_size)
        except NotFoundError:
            return None

    def list_objects(self) -> Iterator[StoredObject]:
        """See `WritableStore.list_objects`."""
        for folder, folders, names in os.walk(self._root):
            folders[:] = [found for found in folders if not found.lower().startswith(RESERVED)]
            for found in names:
                path = Path(folder, found)
                key = path.relative_to(self._root).as_posix()
                with contextlib.suppress(P2UError, OSError):
                    check_path(key, "key")
                    if path.is_file() and not path.is_symlink():
                        yield StoredObject(key, path.stat().st_size)

    def delete(self, keys: Iterable[str]) -> None:
        """See `WritableStore.delete`; folders that become empty are removed, too."""
        for key in keys:
            path = self._place(key, make=False)
            with disk_errors(self._name(key)):
                try:
                    path.unlink(missing_ok=True)
                except NotADirectoryError:
                    continue
                for parent in path.parents:
                    if parent == self._root or not parent.is_relative_to(self._root):
                        break
                    with contextlib.suppress(OSError):  # not empty
                        parent.rmdir()

    def locate(self, key: str) -> Path:
        """The regular file of a key, with no link in its path; raises as `open`."""
        with self.open(key):
            return Path(os.path.realpath(self._root.joinpath(*key.split("/"))))

    def close(self) -> None:
        """Transfers under way end with a StoreError at their next piece."""
        self._closed = True

    def _place(self, key: str, *, make: bool = True) -> Path:
        """The path for an object, whose folder is made, without links in it that lead away."""
        if self._closed:
            raise closed_error(self._name(key))
        path = self._root.joinpath(*check_path(key, "key"))
        with disk_errors(self._name(key), "write", UNPUBLISHED):
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            if not Path(os.path.realpath(path.parent)).is_relative_to(self._root):
                raise FormatError(
                    "leads out of the package folder",
                    file=self._name(key),
                    hint="Replace the symbolic link by a folder",
                )
        return path

    def _write(self, path: Path, content: Content, name: str, *, new: bool) -> None:
        """Write a file next to its place, and move it there when it is on the disk."""
        part = self._root / f"{_PART}{os.urandom(8).hex()}"
        with disk_errors(name, "write", UNPUBLISHED):
            _remove_stale(self._root)
            try:
                with open(part, "xb") as file:
                    if isinstance(content, bytes):
                        file.write(content)
                    else:
                        with open(content, "rb") as source:
                            shutil.copyfileobj(source, file, PIECE)
                    sync(file)
                _move(part, path, new=new)
            except FileExistsError:
                raise conflict(name, ABSENT) from None
            finally:
                part.unlink(missing_ok=True)
            sync_folder(path.parent)

    def _name(self, key: str) -> str:
        return str(Path(self.url, *key.split("/")))


def _move(part: Path, path: Path, *, new: bool) -> None:
    """Give a complete file its name; a new one must not replace another one.

    Raises:
        FileExistsError: It would.
    """
    if not new:
        part.replace(path)
        return
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links
        with open(path, "xb"):
            pass
        part.replace(path)


def _remove_stale(folder: Path) -> None:
    """Remove parts that a killed process left."""
    for path in folder.glob(f"{_PART}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def create_folder(path: str) -> LocalStore:
    """The store of a folder that is made if there is none.

    Raises:
        DiskError: It cannot be made.
        The errors of `LocalStore`.
    """
    with disk_errors(path, "write", UNPUBLISHED):
        if not os.path.lexists(path):
            Path(path).mkdir(parents=True)
    return LocalStore(path)


def open_file_url(url: str, _: StoreOptions) -> LocalStore:
    """The store of the folder that a file URL means.

    Raises:
        UsageError: It names another host.
        The errors of `LocalStore`.
    """
    return LocalStore(path_of(url))


def path_of(url: str) -> str:
    """The path that a file URL means.

    Raises:
        UsageError: It names another host.
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

        return url2pathname(parts.path)
    return unquote(parts.path)


#: Most bytes of an object that is replaced on condition: no manifest is larger.
_MOST = 1 << 30
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP)


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    """Turn OSError into NotFoundError or DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno in _MISSING and Path(name).name == MANIFEST_KEY:
            raise NotFoundError(
                f"is not a package: it has no {MANIFEST_KEY}",
                file=str(Path(name).parent),
                hint="`p2u pack` makes a package of a model; if it is one, copy it again",
            ) from error
        if error.errno in _MISSING:
            raise NotFoundError(
                f"not found ({error.strerror or error})",
                file=name,
                hint="The package is incomplete; copy it again",
            ) from error
        raise disk_error(error, name, "read") from error
