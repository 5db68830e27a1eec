"""Stop, count and pace the threads of one transfer."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2u.errors import Cancelled

#: Seconds over which the rate is averaged.
_RATE_WINDOW = 3.0
#: Seconds between two pieces after which the threads were probably kept from reading (an import may
#: hold the interpreter for a second), and seconds in which they read what has gathered meanwhile.
_GAP, _DRAIN = 0.05, 0.03
#: Memory is borrowed in multiples of this many bytes.
_PAGES = 256 << 10
#: Seconds after which a waiting thread looks again by itself: only between waits does Ctrl-C work
#: on every system.
LOOK = 0.2


def wait_briefly(
    changed: threading.Condition, end: float | None = None, look: float = LOOK
) -> bool:
    """Wait for a notification, but not for long: the caller asks again what it waits for.

    Args:
        changed: The caller holds it.
        end: When to give up, by `time.monotonic`; None: never.
        look: Most seconds to wait.

    Returns:
        Whether there was time left to wait.
    """
    left = look if end is None else end - time.monotonic()
    if left <= 0:
        return False
    changed.wait(min(look, left))
    return True


def too_late(state: str, timeout: float | None, cause: BaseException | None) -> TimeoutError:
    """The error of a wait that took too long, with what has gone wrong meanwhile."""
    late = TimeoutError(
        f"state {state!r} not reached in {timeout} s{f'; {cause}' if cause else ''}"
    )
    late.__cause__ = cause
    return late


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a transfer. All sizes are bytes of the package.

    Attributes:
        state: Label of the state reached last; None before the first.
        target: Label of the state that is on its way.
        done: Bytes here, those of an earlier run included.
        total: Bytes of the whole route.
        rate: Bytes per second, over the last seconds.
        seconds: Since the transfer began.
        marks: ``(label, bytes)``: where on the route each state is reached.
    """

    state: str | None
    target: str | None
    done: int
    total: int
    rate: float
    seconds: float
    marks: tuple[tuple[str, int], ...] = ()


class Stop:
    """A cancellation that all threads look at; `call` runs the actions that wake them."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []

    @property
    def called(self) -> bool:
        """Whether `call` was called."""
        return self._event.is_set()

    def on_call(self, action: Callable[[], None]) -> None:
        """Run ``action`` when `call` is called; at once if it was."""
        with self._lock:
            if not self.called:
                self._actions.append(action)
                return
        action()

    def call(self) -> None:
        """Stop everything. Idempotent."""
        with self._lock:
            self._event.set()
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def check(self) -> None:
        """Raise Cancelled if `call` was called."""
        if self.called:
            raise Cancelled("the transfer was cancelled")

    def sleep(self, seconds: float) -> None:
        """Sleep; Cancelled if `call` is or was called."""
        self._event.wait(seconds)
        self.check()


class Meter:
    """Counts bytes from all threads, and their rate.

    Args:
        total: Counts all that is counted here, too: the sum of several transfers.
    """

    def __init__(self, total: Meter | None = None) -> None:
        self._total = total
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._samples: list[tuple[float, int]] = [(self._begin, 0)]
        self._received = 0
        self._latest = self._drained = self._begin
        self._steady = (0, 0.0)
        self._done = 0
        self._requests = self._cached = self._retries = self._hash_failures = 0

    def add(self, count: int) -> None:
        """``count`` bytes of the route arrived; negative if they have to be fetched again."""
        with self._lock:
            self._done += count
        if self._total is not None:
            self._total.add(count)

    def receive(self, count: int) -> None:
        """``count`` bytes came from the store or the cache, wanted or not."""
        with self._lock:
            now = time.monotonic()
            gap, self._latest = now - self._latest, now
            if gap > _GAP:
                self._drained = now + _DRAIN
            elif now > self._drained:
                self._steady = self._steady[0] + count, self._steady[1] + gap
            self._received += count
        if self._total is not None:
            self._total.receive(count)

    def hit(self, count: int) -> None:
        """``count`` of the bytes that `receive` counts came from the cache."""
        with self._lock:
            self._cached += count
        if self._total is not None:
            self._total.hit(count)

    def request(self) -> None:
        """One more request was made."""
        with self._lock:
            self._requests += 1
        if self._total is not None:
            self._total.request()

    def retry(self) -> None:
        """A request failed and will be made again."""
        with self._lock:
            self._retries += 1
        if self._total is not None:
            self._total.retry()

    def hash_failure(self) -> None:
        """An object, a chunk or a file came that does not have its digest."""
        with self._lock:
            self._hash_failures += 1
        if self._total is not None:
            self._total.hash_failure()

    @property
    def done(self) -> int:
        """Bytes of the route that are here."""
        return self._done

    @property
    def received(self) -> int:
        """Bytes that came, from the store or the cache."""
        return self._received

    @property
    def cached(self) -> int:
        """Bytes that came from the cache."""
        return self._cached

    @property
    def fetched(self) -> int:
        """Bytes that came from the store."""
        # A hit is counted before the reader has received its last piece.
        return max(0, self._received - self._cached)

    @property
    def retries(self) -> int:
        """Requests made again after a failure."""
        return self._retries

    @property
    def hash_failures(self) -> int:
        """Objects, chunks and files that came without their digest."""
        return self._hash_failures

    @property
    def steady(self) -> tuple[int, float]:
        """Bytes that were read as they came, and the seconds that it took."""
        return self._steady

    @property
    def requests(self) -> int:
        """Requests made."""
        return self._requests

    @property
    def seconds(self) -> float:
        """Since this meter was made."""
        return time.monotonic() - self._begin

    def fork(self) -> None:
        """This is the child of a fork, where nobody holds the lock."""
        self._lock = threading.Lock()

    def rate(self) -> float:
        """Bytes per second over the last seconds."""
        now = time.monotonic()
        with self._lock:
            if now - self._samples[-1][0] >= 0.1:
                self._samples.append((now, self._received))
            while len(self._samples) > 2 and now - self._samples[1][0] > _RATE_WINDOW:
                self._samples.pop(0)
            then, count = self._samples[0]
            return (self._received - count) / max(now - then, 1e-3)


class Buffers:
    """Lets threads borrow memory, so many bytes together; one alone may have more.

    Memory that is given back is used again. Freed and new memory would stay in each thread's heap,
    and every new page has to be cleared by the system.

    Args:
        size: Bytes.
        stop: Waiting threads get Cancelled when it is called.
    """

    def __init__(self, size: int, stop: Stop) -> None:
        self._size = size
        self._stop = stop
        self._borrowed = 0
        self._idle: list[mmap.mmap] = []
        self._changed = threading.Condition()
        stop.on_call(self._wake)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def lend(self, count: int) -> Iterator[memoryview]:
        """Wait for ``count`` bytes, and lend them, of any content, for the time of the block."""
        memory = self._take(max(count, 1))
        try:
            yield memoryview(memory)[:count]
        finally:
            with self._changed:
                self._borrowed -= len(memory)
                self._idle.append(memory)
                self._changed.notify_all()

    def _take(self, count: int) -> mmap.mmap:
        with self._changed:
            while True:
                self._stop.check()
                fits = [memory for memory in self._idle if len(memory) >= count]
                if fits:
                    memory = min(fits, key=len)
                    self._idle.remove(memory)
                    break
                # Too small ones make room for a larger one.
                self._idle.sort(key=len)
                while self._idle and self._borrowed + self._held() + count > self._size:
                    self._idle.pop(0)
                if not self._borrowed or self._borrowed + count <= self._size:
                    memory = mmap.mmap(-1, -(-count // _PAGES) * _PAGES)
                    break
                self._changed.wait()
            self._borrowed += len(memory)
            return memory

    def _held(self) -> int:
        return sum(len(memory) for memory in self._idle)


def in_time(left: int, rate: float, seconds: float, deadline: float) -> bool:
    """Whether ``left`` bytes more will be here by the deadline.

    Args:
        left: Bytes.
        rate: Bytes per second, measured.
        seconds: Gone by.
        deadline: Seconds from the same beginning.
    """
    return left <= rate * (deadline - seconds)
