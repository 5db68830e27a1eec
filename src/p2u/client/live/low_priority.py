"""Run background threads at low priority, so that they yield the processors to the model."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

#: How much nicer such threads are. Much more, and on a busy machine one of them would wait for a
#: processor while it holds Python's lock, and the model for it.
NICE = 5

_thread = threading.local()


def lower_priority() -> None:
    """Make this thread nicer, for good and once; only Linux has priorities per thread."""
    if sys.platform != "linux" or hasattr(_thread, "nicer"):
        return
    _thread.nicer = True
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, nice + NICE)


class LowPriority:
    """Calls of a function, in any threads, that lower the thread's priority first."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: object) -> None:
        """Call it."""
        lower_priority()
        self._call(*args)


def in_background(work: Callable[[], None]) -> None:
    """Do some work in a nicer thread, and wait for its end; raises what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        lower_priority()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="p2u-check")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
