"""The SHA-256 of bytes that are written in any order, taken while they are written."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable

#: Gives the bytes from one place to another, which are there.
Read = Callable[[int, int], Iterable[memoryview]]


class RunningDigest:
    """Hashes a file from its beginning on, as far as its bytes are there.

    Bytes are hashed from memory where they follow the last ones hashed. All others are read back
    when it is their turn, soon after they were written as a rule. Thread-safe: one thread at a
    time hashes, others leave their bytes to it.

    Args:
        size: Bytes of the file.
        missing: ``(offset, size)`` of the ranges that are to be written; the rest is there.
        read: Reads bytes back.
    """

    def __init__(self, size: int, missing: Iterable[tuple[int, int]], read: Read) -> None:
        self._read = read
        ranges = sorted(missing)
        self._starts = [start for start, _ in ranges]
        self._written = [False] * len(ranges)
        #: Where the bytes that are not there begin, after each number of ranges written.
        self._limits = [*self._starts, size]
        #: Ranges written from the first one on.
        self._next = 0
        self._digest = hashlib.sha256()
        self._at = 0
        self._changed = threading.Condition()
        #: A thread hashes.
        self._busy = False

    def written(self, offset: int, data: memoryview) -> None:
        """A range was written, which has these bytes.

        Raises:
            The errors of ``read``.
        """
        with self._changed:
            self._written[bisect_left(self._starts, offset)] = True
            if self._busy:
                return
            self._busy = True
        self._advance(offset, data)

    def hexdigest(self) -> str:
        """The digest of the whole file, all of whose ranges were written.

        Raises:
            The errors of `written`.
        """
        with self._changed:
            while self._busy:
                self._changed.wait()
            self._busy = True
        self._advance(0, memoryview(b""))
        assert self._at == self._limits[-1], "a range is missing"
        return self._digest.hexdigest()

    def _advance(self, offset: int, data: memoryview) -> None:
        """Hash all that is there; ``data`` from memory."""
        try:
            while (limit := self._limit()) > self._at:
                if offset <= self._at < offset + len(data):
                    self._digest.update(data[self._at - offset :])
                    self._at = offset + len(data)
                else:
                    stop = offset if self._at < offset < limit else limit
                    for part in self._read(self._at, stop):
                        self._digest.update(part)
                        self._at += len(part)
        except BaseException:
            with self._changed:
                self._rest()
            raise

    def _limit(self) -> int:
        """The end of the bytes that are there, from the beginning on; rests if all are hashed."""
        with self._changed:
            while self._next < len(self._written) and self._written[self._next]:
                self._next += 1
            limit = self._limits[self._next]
            if limit <= self._at:
                self._rest()
            return limit

    def _rest(self) -> None:
        self._busy = False
        self._changed.notify_all()
