"""Hash several states of one file at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from queue import Queue
from threading import Thread

from p2u.codec import core
from p2u.errors import P2UError

#: Updates that may wait in front of the thread; each keeps its whole chunk in memory.
WAITING = 2


class Hashes:
    """A context manager; ``digests`` ends it.

    Args:
        count: States.
        thread: Hash in a thread of its own instead of the caller's.
    """

    def __init__(self, count: int, *, thread: bool) -> None:
        # All states in step are much faster than one after the other, where that can be had.
        self._core = core.sha256(count) if count > 1 else None
        self._hashes = [] if self._core else [hashlib.sha256() for _ in range(count)]
        self._queue: Queue[Sequence[memoryview] | None] = Queue(WAITING)
        self._thread: Thread | None = None
        self._failed: P2UError | None = None
        if thread:
            self._thread = Thread(target=self._work, name="p2u-hash", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (states := self._queue.get()) is not None:
            try:
                if self._failed is None:
                    self._append(states)
            except P2UError as error:
                self._failed = error  # raised by `digests`; the queue still has to be emptied

    def _append(self, states: Sequence[memoryview]) -> None:
        if self._core:
            self._core.update(states)
        else:
            for found, data in zip(self._hashes, states, strict=True):
                found.update(data)

    def update(self, states: Sequence[memoryview]) -> None:
        """Append bytes, one part per state, all of one size, which must not change any more."""
        if self._thread:
            self._queue.put(states)
        else:
            self._append(states)

    def digests(self) -> tuple[str, ...]:
        """The digests in hex; nothing can be appended any more."""
        self._stop()
        if self._failed:
            raise self._failed
        if self._core:
            return tuple(digest.hex() for digest in self._core.digests())
        return tuple(found.hexdigest() for found in self._hashes)

    def _stop(self) -> None:
        if self._thread:
            self._queue.put(None)
            self._thread.join()
        self._thread = None

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
