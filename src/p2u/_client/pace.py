"""How much of the processors refining may take from a model that uses all of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from p2u._client.control import Stop

#: Processors that refining has where the model leaves none idle. A model's threads wait for each
#: other: what one of them loses, the call loses. So this is about the share of its calls, too.
SHARE = 0.04
#: Processors of which a model that has all but one may use that one, too, now and then.
_SLACK = 0.15
#: Seconds over which the load is measured, and after which the waiting thread asks again.
_LOOK = 0.1


class Pace:
    """Lets threads do some work only as fast as the model can spare; for any number of threads.

    The model's share of the processors is measured: what this process has used, less what was
    charged here. Where it leaves a processor to others, or is not in use, nobody waits.

    Args:
        in_use: Whether the model has been called of late.
    """

    def __init__(self, in_use: Callable[[], bool]) -> None:
        self._in_use = in_use
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._room = processors() - 1 + _SLACK
        #: When all work charged so far is paid for.
        self._free = 0.0
        self._charged = 0.0
        self._looked = (time.monotonic(), time.process_time())
        self._load = 0.0

    def wait(self, stop: Stop) -> None:
        """Return when some more work may be done.

        Raises:
            Cancelled: ``stop`` was called.
        """
        # One thread asks, the others sleep: to wake up disturbs the model as well.
        with self._turn:
            stop.check()
            while (left := self._left()) > 0:
                stop.sleep(min(left, _LOOK))

    def charge(self, seconds: float) -> None:
        """Some work took so many seconds of a processor."""
        with self._lock:
            self._charged += seconds
            self._free = max(self._free, time.monotonic()) + seconds / SHARE

    def _left(self) -> float:
        with self._lock:
            now, used = time.monotonic(), time.process_time()
            span = now - self._looked[0]
            if span >= _LOOK:
                self._load = (used - self._looked[1] - self._charged) / span
                self._looked, self._charged = (now, used), 0.0
            if self._load <= self._room or not self._in_use():
                self._free = now
            return self._free - now


def processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
