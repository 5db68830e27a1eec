"""SHA-256 of several states of one file at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from queue import Queue
from threading import Thread

#: Updates that may wait in front of a thread; each keeps its whole chunk in memory.
WAITING = 1


class Hashes:
    """A context manager; ``digests`` ends it.

    Args:
        count: States.
        threads: Hash in a thread per state instead of the caller's.
    """

    def __init__(self, count: int, *, threads: bool) -> None:
        self._hashes = [hashlib.sha256() for _ in range(count)]
        self._queues: list[Queue[memoryview | None]] = []
        self._threads: list[Thread] = []
        if threads:
            self._queues = [Queue(WAITING) for _ in self._hashes]
            self._threads = [
                Thread(target=self._work, args=(n,), name="p2u-hash", daemon=True)
                for n in range(count)
            ]
        for thread in self._threads:
            thread.start()

    def _work(self, number: int) -> None:
        while (data := self._queues[number].get()) is not None:
            self._hashes[number].update(data)

    def update(self, states: Sequence[memoryview]) -> None:
        """Append bytes, one part per state, which must not change any more."""
        if self._queues:
            for queue, data in zip(self._queues, states, strict=True):
                queue.put(data)
            return
        for found, data in zip(self._hashes, states, strict=True):
            found.update(data)

    def digests(self) -> tuple[str, ...]:
        """The digests in hex; nothing can be appended any more."""
        self._stop()
        return tuple(found.hexdigest() for found in self._hashes)

    def _stop(self) -> None:
        for queue in self._queues:
            queue.put(None)
        for thread in self._threads:
            thread.join()
        self._queues, self._threads = [], []

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
