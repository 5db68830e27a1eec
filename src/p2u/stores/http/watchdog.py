"""End network calls that take too long as a whole.

A socket's time-out restarts with each byte that arrives, so a server that sends one header byte a
second can hold a thread for hours. Calls that may block are therefore watched: when one lasts
longer than its limit, its socket is shut down and the call returns at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Watch:
    """One call under watch; a context manager.

    Attributes:
        fired: The call was ended by the watchdog (too long, or `Watchdog.end_all`).
    """

    __slots__ = ("_dog", "deadline", "fired", "stop")

    def __init__(self, dog: Watchdog, limit: float, stop: Callable[[], object]) -> None:
        self._dog = dog
        self.deadline = time.monotonic() + limit
        self.stop = stop
        self.fired = False

    def __enter__(self) -> Watch:
        self._dog.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._dog.remove(self)


class Watchdog:
    """Watches any number of calls with one daemon thread, which lives only while it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._woken = threading.Condition(self._lock)
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self.ended = False

    def watch(self, limit: float, stop: Callable[[], object]) -> Watch:
        """Watch the body of a ``with``: after ``limit`` seconds ``stop`` is called, once."""
        return Watch(self, limit, stop)

    def add(self, watch: Watch) -> None:
        """Begin a watch; after `end_all` it is stopped at once."""
        with self._lock:
            if self.ended:
                watch.fired = True
                _quietly(watch.stop)
                return
            self._watches.add(watch)
            # is_alive() is also False in the child after a fork.
            if self._thread is None or not self._thread.is_alive():
                self._wakes_at = watch.deadline
                self._thread = threading.Thread(target=self._run, name="p2u-watchdog", daemon=True)
                self._thread.start()
            elif watch.deadline < self._wakes_at:
                self._woken.notify()

    def remove(self, watch: Watch) -> None:
        """End a watch: its ``stop`` will not be called any more."""
        with self._lock:
            self._watches.discard(watch)

    def end_all(self) -> None:
        """Stop every call under watch, and every later one as soon as it begins."""
        with self._lock:
            self.ended = True
            self._fire(list(self._watches))
            self._woken.notify()

    def fork(self) -> None:
        """This is the child of a fork: the calls, their sockets and the thread are the parent's."""
        self._lock = threading.Lock()
        self._woken = threading.Condition(self._lock)
        self._watches, self._thread = set(), None

    def _fire(self, watches: list[Watch]) -> None:
        for watch in watches:
            watch.fired = True
            self._watches.discard(watch)
            # Under the lock: the socket cannot have gone back to the pool meanwhile.
            _quietly(watch.stop)

    def _run(self) -> None:
        with self._lock:
            while self._watches and not self.ended:
                self._wakes_at = min(watch.deadline for watch in self._watches)
                left = self._wakes_at - time.monotonic()
                if left > 0:
                    # Most calls end long before: the next look is at the deadline of a call that
                    # has gone, which is rare enough to cost nothing.
                    self._woken.wait(left)
                now = time.monotonic()
                self._fire([watch for watch in self._watches if watch.deadline <= now])
            self._thread = None


def _quietly(stop: Callable[[], object]) -> None:
    try:
        stop()
    except Exception:  # noqa: BLE001
        # The socket was closed already, by either side: then there is nothing left to stop. An
        # error here must not end the watch over the other calls.
        return
