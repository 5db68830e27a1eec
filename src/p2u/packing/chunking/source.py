"""The files of a model, to be read at any place by any thread."""

from __future__ import annotations

import threading

from p2u.disk.errors import disk_errors
from p2u.disk.files import read_from
from p2u.errors import IntegrityError
from p2u.formats import ScannedModel


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
            count = read_from(self._paths[file], offset, out)
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
