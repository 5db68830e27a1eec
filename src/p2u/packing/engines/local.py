"""The local engine: threads of this process, blobs in a folder."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from p2u.disk.durable import sync
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.packing.chunking.pool import in_order
from p2u.packing.engines.coded import Payload
from p2u.packing.engines.engine import BlobStream, Engine, R, T, Work
from p2u.packing.engines.places import FolderPlace, Place
from p2u.packing.settings import PackSettings


def open_local(settings: PackSettings) -> LocalEngine:
    """The engine of `PackSettings.jobs` threads."""
    return LocalEngine(settings.jobs)


class LocalEngine(Engine):
    """See `Engine`.

    Args:
        workers: Threads.
    """

    shares_memory = True

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(
        self, work: Work[T, R], items: Iterable[T], budget: int
    ) -> Generator[tuple[T, R], None, None]:
        """See `Engine.run`."""
        started = work.start()
        return in_order(items, started.run, started.cost, self.workers, budget)

    def open_blob(self, place: Place, key: str) -> BlobStream:
        """See `Engine.open_blob`."""
        assert isinstance(place, FolderPlace)
        return _BlobFile(place, key)

    def settle(self) -> dict[str, str]:
        """See `Engine.settle`: they are."""
        return {}


class _BlobFile(BlobStream):
    """A blob's file, appended to payload by payload."""

    def __init__(self, place: FolderPlace, key: str) -> None:
        self._path = place.folder / key
        with disk_errors(self._path, "write", UNPUBLISHED):
            self._stream = open(self._path, "xb")  # noqa: SIM115 - see close

    def add(self, payload: Payload) -> None:
        """See `BlobStream.add`."""
        assert isinstance(payload, bytes)
        with disk_errors(self._path, "write", UNPUBLISHED):
            self._stream.write(payload)

    def finish(self) -> None:
        """See `BlobStream.finish`: bring it to the disk."""
        with disk_errors(self._path, "write", UNPUBLISHED), self._stream:
            sync(self._stream)

    def close(self) -> None:
        """See `BlobStream.close`."""
        with disk_errors(self._path, "write", UNPUBLISHED):
            self._stream.close()
