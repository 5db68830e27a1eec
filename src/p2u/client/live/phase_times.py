"""Measure where the seconds of a version are spent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimes:
    """Seconds by phase, summed over threads.

    Attributes:
        decode: Decoding payloads.
        check: Comparing files with their digests after all payloads were decoded.
    """

    def __init__(self) -> None:
        self.decode = self.check = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Count the block as decoding; in any thread."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.decode += time.perf_counter() - begin

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Count the block as checking."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.check += time.perf_counter() - begin
