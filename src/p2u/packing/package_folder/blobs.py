"""Write the blobs and the other files of a package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p2u.disk.durable import write_file
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.package.manifest import Blob
from p2u.packing.engines.coded import Payload
from p2u.packing.engines.engine import BlobStream, Engine
from p2u.packing.engines.places import Place

#: Keys that are announced together.
ANNOUNCED = 64


class BlobWriter:
    """The blobs of one update: payloads back to back, none across two blobs.

    Args:
        engine: Writes them.
        place: Where to.
        label: Beginning of the blobs' names.
        limit: Most bytes per blob; a larger payload gets a blob of its own.
    """

    def __init__(self, engine: Engine, place: Place, label: str, limit: int) -> None:
        self._engine = engine
        self._place = place
        self._label = label
        self._limit = limit
        self._stream: BlobStream | None = None
        self.blobs: list[Blob] = []

    def add(self, payload: Payload) -> tuple[int, int]:
        """Append a payload; returns the number of its blob and its offset in it.

        Raises:
            DiskError, StoreError: It cannot be written.
        """
        if not self.blobs or self.blobs[-1].size + len(payload) > self._limit:
            self._end()
            self._stream = self._begin(len(self.blobs))
        blob = self.blobs[-1]
        assert self._stream is not None
        self._stream.add(payload)
        self.blobs[-1] = Blob(blob.key, blob.size + len(payload))
        return len(self.blobs) - 1, blob.size

    def finish(self) -> None:
        """Write the last blob; see `complete`.

        Raises:
            DiskError, StoreError: It cannot be written.
        """
        self._end()

    def rename(self, names: dict[str, str]) -> None:
        """Take note of keys that had to be other ones."""
        self.blobs = [Blob(names.get(blob.key, blob.key), blob.size) for blob in self.blobs]

    def close(self) -> None:
        """Give up what is not finished."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def _begin(self, number: int) -> BlobStream:
        if number % ANNOUNCED == 0:
            self._place.announce([self._key(number + n) for n in range(ANNOUNCED)])
        key = self._key(number)
        stream = self._engine.open_blob(self._place, key)
        self.blobs.append(Blob(key, 0))
        return stream

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _key(self, number: int) -> str:
        return f"{self._label}-{number:03d}.bin"


def complete(engine: Engine, place: Place, writers: Sequence[BlobWriter]) -> None:
    """Write the last blobs of some updates, and wait until all are there.

    Raises:
        DiskError, StoreError: One cannot be written.
    """
    for writer in writers:
        writer.finish()
    names = engine.settle()
    if names:
        place.announce(list(names.values()))
    for writer in writers:
        writer.rename(names)
    place.tidy()


def write_new(path: Path, data: bytes) -> None:
    """Write a new file of a package and bring it to the disk.

    Raises:
        DiskError: It cannot be written.
    """
    with disk_errors(path, "write", UNPUBLISHED):
        write_file(path, data, new=True)
