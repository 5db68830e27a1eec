"""Keep verified payloads until their commit: some in memory, the rest in an unlinked file."""

from __future__ import annotations

import io
import tempfile
import threading

from p2u.client.live.staging.tools import StagingTools
from p2u.disk.errors import disk_errors
from p2u.disk.files import read_all_at, write_at


class Spool:
    """Payloads by number; thread-safe.

    Args:
        tools: They name the bytes kept in memory, and the folder of the temporary file.
    """

    def __init__(self, tools: StagingTools) -> None:
        self._tools = tools
        self._room = tools.spool_memory
        self._lock = threading.Lock()
        self._kept: dict[int, bytes] = {}
        self._filed: dict[int, tuple[int, int]] = {}
        self._file: io.FileIO | None = None
        self._end = 0

    def put(self, number: int, payload: memoryview) -> None:
        """Keep a copy.

        Raises:
            DiskError: The temporary file cannot be written.
        """
        with self._lock:
            if len(payload) <= self._room:
                self._room -= len(payload)
                self._kept[number] = bytes(payload)
                return
            folder = self._tools.folder()
            with disk_errors(folder):
                if self._file is None:
                    self._file = tempfile.TemporaryFile(  # noqa: SIM115 - see close
                        buffering=0, dir=folder
                    )
                write_at(self._file, self._end, payload)
            self._filed[number] = (self._end, len(payload))
            self._end += len(payload)

    def get(self, number: int) -> memoryview:
        """A payload that was put.

        Raises:
            DiskError: The temporary file cannot be read.
        """
        if number in self._kept:
            return memoryview(self._kept[number])
        offset, size = self._filed[number]
        out = memoryview(bytearray(size))
        assert self._file is not None
        with self._lock, disk_errors(self._tools.folder(), "read"):
            read_all_at(self._file, offset, out)
        return out

    def close(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self._filed.clear()
        if self._file is not None:
            self._file.close()
