"""Memory that threads use again."""

from __future__ import annotations

import threading


class Scratch(threading.local):
    """Memory that a thread uses again and again: new memory costs more than the work in it."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def view(self, size: int) -> memoryview:
        """``size`` bytes of any content; the thread's next call gives the same ones again."""
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]
