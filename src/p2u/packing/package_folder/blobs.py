"""Writing the files of a package."""

from __future__ import annotations

import os
from io import BufferedWriter
from pathlib import Path

from p2u.package.manifest import Blob
from p2u.packing.chunking.source import disk_errors


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
            with disk_errors(str(self._folder / key), "write"):
                self._stream = open(self._folder / key, "xb")  # noqa: SIM115 - see close
            self.blobs.append(Blob(key, 0))
        blob = self.blobs[-1]
        with disk_errors(str(self._folder / blob.key), "write"):
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
            with disk_errors(stream.name, "write"), stream:
                sync(stream)


def sync(stream: BufferedWriter) -> None:
    """Bring what was written to the disk itself."""
    stream.flush()
    os.fsync(stream.fileno())


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and bring it to the disk.

    Raises:
        DiskError: It cannot be written.
    """
    with disk_errors(str(path), "write"), open(path, "xb") as stream:
        stream.write(data)
        sync(stream)


def sync_folder(path: Path) -> None:
    """Bring a directory's names to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
