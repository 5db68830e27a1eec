"""Waits for what happens in other threads and processes."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(reached: Callable[[], object], seconds: float = 60) -> None:
    """Return when it is so; fail after far longer than it takes on a busy machine."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
