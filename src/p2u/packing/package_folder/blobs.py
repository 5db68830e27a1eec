"""Write the blobs and the other files of a package."""

from __future__ import annotations

from io import BufferedWriter
from pathlib import Path

from p2u.disk.durable import sync, write_file
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.package.manifest import Blob


class BlobWriter:
    """The blobs of one update: payloads back to back, none across two blobs.

    Args:
        folder: Where to write.
        label: Beginning of the blobs' names.
        limit: Most bytes per blob; a larger payload gets a blob of its own.
    """

    def __init__(self, folder: Path, label: str, limit: int) -> None:
        self._folder = folder
        self._label = label
        self._limit = limit
        self._stream: BufferedWriter | None = None
        self.blobs: list[Blob] = []

    def add(self, payload: bytes) -> tuple[int, int]:
        """Append a payload; returns the number of its blob and its offset in it.

        Raises:
            DiskError: It cannot be written.
        """
        if not self.blobs or self.blobs[-1].size + len(payload) > self._limit:
            self.close()
            key = f"{self._label}-{len(self.blobs):03d}.bin"
            with disk_errors(self._folder / key, "write", UNPUBLISHED):
                self._stream = open(self._folder / key, "xb")  # noqa: SIM115 - see close
            self.blobs.append(Blob(key, 0))
        blob = self.blobs[-1]
        with disk_errors(self._folder / blob.key, "write", UNPUBLISHED):
            assert self._stream is not None
            self._stream.write(payload)
        self.blobs[-1] = Blob(blob.key, blob.size + len(payload))
        return len(self.blobs) - 1, blob.size

    def close(self) -> None:
        """Bring the last blob to the disk.

        Raises:
            DiskError: It cannot be written.
        """
        if self._stream:
            stream, self._stream = self._stream, None
            with disk_errors(stream.name, "write", UNPUBLISHED), stream:
                sync(stream)


def write_new(path: Path, data: bytes) -> None:
    """Write a new file of a package and bring it to the disk.

    Raises:
        DiskError: It cannot be written.
    """
    with disk_errors(path, "write", UNPUBLISHED):
        write_file(path, data, new=True)
