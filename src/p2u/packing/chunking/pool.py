"""Run work in threads: results in order, memory bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

#: Bytes that a buffer's size is a multiple of: chunks of a tensor differ by a row.
ROUND = 256 << 10

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    items: Iterable[T],
    work: Callable[[T], R],
    cost: Callable[[T], int],
    jobs: int,
    budget: int,
) -> Generator[tuple[T, R], None, None]:
    """Yield each item with what ``work`` makes of it, in the order of the items.

    Args:
        items: What there is to do.
        work: Called in one of ``jobs`` threads; in the caller's if there is one job only.
        cost: Bytes that an item takes, from its start until the next result is asked for.
        jobs: Threads.
        budget: Most bytes that all unfinished items take together; one item is always let in.

    Raises:
        What ``work`` raises, for the first item concerned; the others are not begun then.
    """
    if jobs == 1:
        for item in items:
            yield item, work(item)
        return
    waiting: deque[tuple[T, int, Future[R]]] = deque()
    taken = 0
    with ThreadPoolExecutor(jobs, thread_name_prefix="p2u-pack") as pool:
        try:
            for item in items:
                size = cost(item)
                # Twice as many as threads: the next ones are at hand when one waits its turn.
                while waiting and (taken + size > budget or len(waiting) >= 2 * jobs):
                    head, head_size, future = waiting.popleft()
                    yield head, future.result()
                    taken -= head_size
                waiting.append((item, size, pool.submit(work, item)))
                taken += size
            while waiting:
                head, _, future = waiting.popleft()
                yield head, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Scratch(threading.local):
    """Memory that a thread uses again and again: new memory costs more than the work in it."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def view(self, size: int) -> memoryview:
        """``size`` bytes of any content; the thread's next call gives the same ones again."""
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]


class BufferPool:
    """Memory that is handed from chunk to chunk, by any thread.

    Args:
        spare: Most bytes to keep that nobody uses.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._free: deque[bytearray] = deque()
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """``size`` bytes of any content."""
        with self._lock:
            for number, memory in enumerate(self._free):
                if size <= len(memory) <= 2 * size + ROUND:
                    del self._free[number]
                    return memoryview(memory)[:size]
        return memoryview(bytearray(-(-size // ROUND) * ROUND))[:size]

    def give(self, buffers: Iterable[memoryview]) -> None:
        """Give back what was taken, once nobody looks at it any more."""
        with self._lock:
            for buffer in buffers:
                assert isinstance(buffer.obj, bytearray)
                self._free.append(buffer.obj)
            kept = sum(map(len, self._free))
            while kept > self._spare:
                kept -= len(self._free.popleft())
