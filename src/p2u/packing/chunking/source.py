"""Find a model: a path on this machine, or the URL of a store with its files.

Of a model in a store only the structure is fetched: its files are scanned as if they were in a
folder, which has their names and sizes, but no bytes.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from p2u.disk.errors import disk_errors
from p2u.disk.scratch import TemporaryFolder
from p2u.errors import FormatError, UnsupportedError
from p2u.formats import ScannedModel, scan_model
from p2u.formats.reader import opened_by
from p2u.package.paths import check_path
from p2u.stores.backoff import Retry
from p2u.stores.base import Store
from p2u.stores.listing import open_listing
from p2u.stores.local import path_of
from p2u.stores.retrying import Retrying
from p2u.stores.schemes import scheme_of
from p2u.stores.writable import StoredObject

#: Bytes of a file's structure that are fetched at once, and how many such windows are kept.
WINDOW, WINDOWS = 1 << 18, 16


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found.

    Attributes:
        scanned: Its files and tensors; ``root`` means nothing if it is in a store.
        url: The store with its files; None if they are on this machine.
        objects: What that store says of them, by path.
    """

    scanned: ScannedModel
    url: str | None = None
    objects: tuple[StoredObject, ...] = ()


def find_model(source: str) -> ModelSource:
    """Scan a model at a path or URL.

    Raises:
        UnsupportedError: The files at such a URL cannot be listed.
        StoreError: The store cannot be reached.
        The errors of `scan_model`.
    """
    scheme = scheme_of(source)
    if scheme is None or scheme == "file":
        return ModelSource(scan_model(source if scheme is None else path_of(source)))
    found = open_listing(source)
    if found is None:
        raise UnsupportedError(
            "the files of a model at this URL cannot be listed",
            file=source.split("?")[0],
            hint="Copy the model to a folder or a bucket",
        )
    store, objects = found
    with store:
        return ModelSource(_scan(store, objects), source, _sorted(objects))


def look_again(source: ModelSource) -> tuple[StoredObject, ...]:
    """What the store says now of a model's files; raises as `find_model`."""
    assert source.url is not None
    found = open_listing(source.url)
    if found is None:
        return ()
    store, objects = found
    store.close()
    return _sorted(objects)


def _sorted(objects: list[StoredObject]) -> tuple[StoredObject, ...]:
    return tuple(sorted(objects, key=lambda found: found.key))


def _scan(store: Store, objects: list[StoredObject]) -> ScannedModel:
    sizes = {found.key: found.size for found in objects}
    if not sizes:
        raise FormatError("there are no files", file=store.url, hint="Name the model's folder")
    with TemporaryFolder("p2u-model") as folder:
        root = folder.path.resolve() / "model"
        with disk_errors(root, "write"):
            for key, size in sizes.items():
                path = root.joinpath(*check_path(key))
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as stream:
                    stream.truncate(size)  # it has no blocks on the disk
        reading = Retrying(store, Retry())

        def opener(path: str) -> BinaryIO:
            key = Path(os.path.realpath(path)).relative_to(root).as_posix()
            return cast(BinaryIO, io.BufferedReader(_ObjectFile(reading, key, sizes[key]), WINDOW))

        with opened_by(opener):
            found = scan_model(str(root))
    return replace(found, root=store.url)


class _ObjectFile(io.RawIOBase):
    """An object of a store as a file that is open for reading."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size = size
        self._at = 0
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, out: Any) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(out).cast("B")
        if self._at >= self._size or not view:
            return 0
        number, first = divmod(self._at, WINDOW)
        data = self._window(number)[first : first + len(view)]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _window(self, number: int) -> bytes:
        if number not in self._windows:
            begin = number * WINDOW
            length = min(WINDOW, self._size - begin)
            with closing(self._store.stream(self._key, begin, length)) as pieces:
                self._windows[number] = b"".join(pieces)
            while len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(number)
        return self._windows[number]
