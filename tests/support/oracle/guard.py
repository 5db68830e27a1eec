"""Memory that ends where the process's does: one byte too far is a crash, not a silent read."""

from __future__ import annotations

import ctypes
import mmap
import sys


class Guarded:
    """Room for up to ``size`` bytes; the page behind it cannot be touched (not on Windows)."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.room = max(1, -(-size // page)) * page
        self._map = mmap.mmap(-1, self.room + page)
        if sys.platform != "win32":
            libc = ctypes.CDLL(None, use_errno=True)
            held = ctypes.c_uint8.from_buffer(self._map)
            end = ctypes.c_void_p(ctypes.addressof(held) + self.room)
            if libc.mprotect(end, ctypes.c_size_t(page), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
            del held

    def hold(self, data: bytes) -> memoryview:
        """The data, right before the guard."""
        start = self.room - len(data)
        self._map[start : self.room] = data
        return memoryview(self._map)[start : self.room]
