"""A state held for the time of a block."""

from __future__ import annotations

import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from p2u.client.live.pins import Pin

if TYPE_CHECKING:
    from p2u.client.live.replica import Replica


class Pinned:
    """A state held for the time of a block; made by `Replica.pinned`.

    Adapters call `enter` and `leave` where there is no block.
    """

    def __init__(
        self, replica: Replica, require: str | None, timeout: float | None, brief: bool
    ) -> None:
        self._replica = replica
        self._require = require
        self._timeout = timeout
        self._brief = brief
        self._pin: Pin | None = None

    def enter(self, frame: FrameType | None = None) -> str:
        """Pin; with a frame, also until that frame of this thread has ended.

        Raises:
            See `Replica.pinned`.
        """
        replica, course = self._replica, self._replica._course
        begin = time.monotonic()
        replica._wait(lambda: replica._good_enough(self._require), self._require, self._timeout)
        if course.plan.mode == "atomic":
            left = None
            if self._timeout is not None:
                left = max(0.0, begin + self._timeout - time.monotonic())
            self._pin = course.gate.pin(brief=self._brief, timeout=left, frame=frame)
        if course.spoilt is not None:
            self.leave()
            raise course.spoilt
        label = replica.state
        assert label is not None
        return label

    def leave(self) -> None:
        """Let go; again at no harm."""
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.release()

    def __enter__(self) -> str:
        return self.enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
