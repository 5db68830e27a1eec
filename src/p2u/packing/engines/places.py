"""Where the new files of a package are written by any process: a folder, or a store."""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from p2u.disk.durable import write_file
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.files import read_from
from p2u.errors import DiskError, IntegrityError
from p2u.stores.backoff import Retry
from p2u.stores.retrying import Retrying, with_retries
from p2u.stores.schemes import open_writable
from p2u.stores.upload import upload_one
from p2u.stores.writable import WritableStore

#: Ending of files that are being written.
PART = ".part"
#: Bytes read at once from a store, and how many such windows are kept: chunks follow each other in
#: the blobs of a few levels.
WINDOW, WINDOWS = 4 << 20, 6

#: Bytes, or a view of them.
Buffer = bytes | bytearray | memoryview


class Place(ABC):
    """Files by key; may be pickled. Thread-safe."""

    @abstractmethod
    def write(self, key: str, parts: Sequence[Buffer]) -> str:
        """Write a file; whoever does it again, after a crash, changes nothing.

        Args:
            key: Its key.
            parts: Its bytes, back to back.

        Returns:
            The key that it became: another one if that was taken.

        Raises:
            DiskError, StoreError: It cannot be written.
        """

    @abstractmethod
    def read_into(self, key: str, size: int, start: int, out: memoryview) -> None:
        """Fill ``out`` from a file that was written.

        Args:
            key: The file.
            size: Its bytes.
            start: Where to begin.
            out: Filled.

        Raises:
            DiskError, StoreError, IntegrityError: It cannot be read any more.
        """

    @abstractmethod
    def remove(self, keys: Iterable[str]) -> None:
        """Remove files that were written.

        Raises:
            DiskError, StoreError: They cannot be removed.
        """

    @abstractmethod
    def describe(self, key: str) -> str:
        """What messages call a file."""

    def announce(self, keys: Sequence[str]) -> None:  # noqa: B027 - a folder is removed as a whole
        """Say that files will be written, before any of them is."""

    def tidy(self) -> None:  # noqa: B027 - objects are put in one step
        """Remove what killed writers left."""


class FolderPlace(Place):
    """A folder. With an engine on several machines, all of them see it.

    Args:
        folder: Its path; nothing else is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, key: str, parts: Sequence[Buffer]) -> str:
        """See `Place.write`."""
        path = self.folder / key
        part = path.with_name(f"{key}.{uuid.uuid4().hex}{PART}")
        if not self.folder.is_dir():
            raise DiskError(
                "no such folder on the machine of this worker",
                file=str(self.folder),
                hint="Write to a folder that all machines share, or publish to a store",
            )
        with disk_errors(path, "write", UNPUBLISHED):
            try:
                write_file(part, *parts, new=True)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return key

    def read_into(self, key: str, size: int, start: int, out: memoryview) -> None:
        """See `Place.read_into`."""
        path = self.folder / key
        with disk_errors(path, "read"):
            count = read_from(path, start, out)
        if count < len(out):
            raise IntegrityError("it is shorter than what was written", file=str(path))

    def remove(self, keys: Iterable[str]) -> None:
        """See `Place.remove`."""
        for key in keys:
            with disk_errors(self.folder / key, "write", UNPUBLISHED):
                (self.folder / key).unlink()

    def describe(self, key: str) -> str:
        """See `Place.describe`."""
        return str(self.folder / key)

    def tidy(self) -> None:
        """See `Place.tidy`."""
        with disk_errors(self.folder, "write", UNPUBLISHED):
            for path in self.folder.glob(f"*{PART}"):
                path.unlink(missing_ok=True)


class StorePlace(Place):
    """Objects in a store.

    Args:
        url: The package.
        prefix: What the keys begin with there, with a slash, or nothing.
        announce: Called in the process that made this with keys that will be written.
    """

    def __init__(
        self, url: str, prefix: str, announce: Callable[[set[str]], None] | None = None
    ) -> None:
        self._url = url
        self._prefix = prefix
        self._announce = announce
        self._retry = Retry()
        self._lock = threading.Lock()
        self._store: WritableStore | None = None
        self._windows: OrderedDict[tuple[str, int], bytearray] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return StorePlace, (self._url, self._prefix)

    def write(self, key: str, parts: Sequence[Buffer]) -> str:
        """See `Place.write`."""
        content = b"".join(parts)
        found, _ = upload_one(self._opened(), self._prefix + key, content, self._retry)
        return found.removeprefix(self._prefix)

    def read_into(self, key: str, size: int, start: int, out: memoryview) -> None:
        """See `Place.read_into`."""
        at = 0
        while at < len(out):
            number = (start + at) // WINDOW
            first = start + at - number * WINDOW
            some = memoryview(self._window(key, size, number))[first : first + len(out) - at]
            if not some:
                raise IntegrityError("it is shorter than what was written", file=self.describe(key))
            out[at : at + len(some)] = some
            at += len(some)

    def remove(self, keys: Iterable[str]) -> None:
        """See `Place.remove`."""
        gone = [self._prefix + key for key in keys]
        store = self._opened()
        if gone:
            with_retries(lambda: store.delete(gone), self._retry)
        with self._lock:
            self._windows.clear()

    def describe(self, key: str) -> str:
        """See `Place.describe`."""
        return f"{self._url}/{self._prefix}{key}"

    def announce(self, keys: Sequence[str]) -> None:
        """See `Place.announce`: the next publisher deletes those that nobody names then."""
        if self._announce is not None:
            self._announce({self._prefix + key for key in keys})

    def _window(self, key: str, size: int, number: int) -> bytearray:
        """The bytes of one window of an object, from memory if they were read lately."""
        name = key, number
        with self._lock:
            if name in self._windows:
                self._windows.move_to_end(name)
                return self._windows[name]
        begin = number * WINDOW
        length = max(0, min(WINDOW, size - begin))
        data = bytearray()
        store = Retrying(self._opened(), self._retry)
        with closing(store.stream(self._prefix + key, begin, length)) as pieces:
            for piece in pieces:
                data += piece
        with self._lock:
            self._windows[name] = data
            while len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
        return data

    def _opened(self) -> WritableStore:
        with self._lock:
            if self._store is None:
                self._store = open_writable(self._url)
            return self._store
