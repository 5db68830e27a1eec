"""Stores for tests: one counts what was asked for, one breaks, one waits at gates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from p2u.errors import StoreError
from p2u.stores import Forwarding, Store


class WrapperStore(Forwarding):
    """Another store, unchanged but that it polls by `read`, so that one method meets all reads."""

    poll = Store.poll


@dataclass
class CountingStore(WrapperStore):
    """Notes each request and how many bytes were really taken from it.

    Attributes:
        reads: Keys read whole.
        ranges: ``[key, start, length, taken]`` for each stream, in order of their begin.
    """

    store: Store
    reads: list[str] = field(default_factory=list)
    ranges: list[list[object]] = field(default_factory=list)
    taken: int = 0

    def __post_init__(self) -> None:
        super().__init__(self.store)
        self._lock = threading.Lock()

    def read(self, key: str, *, limit: int) -> bytes:
        data = super().read(key, limit=limit)
        with self._lock:
            self.reads.append(key)
            self.taken += len(data)
        return data

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        pieces = super().stream(key, start, length)
        entry: list[object] = [key, start, length, 0]
        with self._lock:
            self.ranges.append(entry)
        done = 0
        try:
            for piece in pieces:
                done += len(piece)
                with self._lock:
                    entry[3] = done
                    self.taken += len(piece)
                yield piece
        finally:
            pieces.close()


class FlakyStore(WrapperStore):
    """Breaks off requests: ``fails(key, start, n)`` says whether the ``n``-th (from 0) does.

    A broken stream yields half of its first piece before the error, which is retryable.
    """

    def __init__(
        self,
        store: Store,
        fails: Callable[[str, int, int], bool],
        retry_after: float | None = None,
    ) -> None:
        super().__init__(store)
        self._fails = fails
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self.requests = 0
        self.failures = 0

    def _breaks(self, key: str, start: int) -> bool:
        with self._lock:
            number = self.requests
            self.requests += 1
            broken = self._fails(key, start, number)
            self.failures += broken
            return broken

    def _error(self, key: str) -> StoreError:
        return StoreError(
            "the connection broke (on purpose)",
            file=f"{self.url}/{key}",
            retryable=True,
            retry_after=self._retry_after,
        )

    def read(self, key: str, *, limit: int) -> bytes:
        if self._breaks(key, 0):
            raise self._error(key)
        return super().read(key, limit=limit)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        broken = self._breaks(key, start)
        pieces = super().stream(key, start, length)
        try:
            for piece in pieces:
                if broken:
                    yield piece[: len(piece) // 2]
                    raise self._error(key)
                yield piece
        finally:
            pieces.close()


class GatedStore(WrapperStore):
    """Lets the blobs of an update through when its gate is open.

    Attributes:
        gates: One for each state of `kit.make`'s package.
        dead: While it is set, streams break off; the error is retryable.
        left: Pieces of 4 KiB behind the base after which it dies by itself; None: never.
        closed: Whether somebody closed it; then nobody waits at a gate any more.
    """

    def __init__(self, store: Store, *open_labels: str) -> None:
        super().__init__(store)
        self.gates = {label: threading.Event() for label in ("base", "8bit", "exact")}
        self.dead = False
        self.left: int | None = None
        self.closed = False
        self.open(*open_labels)

    def open(self, *labels: str) -> None:
        for label in labels:
            self.gates[label].set()

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        label = key.partition("-")[0]
        assert self.gates[label].wait(60), f"nobody opened the gate of {label}"
        for piece in super().stream(key, start, length):
            size = len(piece) if self.left is None else 4096
            for at in range(0, len(piece), size):
                if self.left is not None and label != "base":
                    self.left -= 1
                    self.dead = self.left < 0
                if self.dead:
                    raise StoreError("dead (on purpose)", retryable=True)
                yield piece[at : at + size]

    def close(self) -> None:
        self.closed = True
        self.open(*self.gates)
        super().close()
