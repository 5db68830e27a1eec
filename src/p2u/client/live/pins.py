"""Pins and commits exclude each other: many pins, or one commit."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from p2u.client.transfer.control import wait_briefly
from p2u.errors import UsageError

#: Most seconds that a fork waits for the end of a commit.
_LONGEST_COMMIT = 30.0

#: Seconds after which a waiting thread looks again by itself: at patience that has run out, at pins
#: whose frame has gone.
_LOOK = 0.1


class Pin:
    """Holds a state until it is released; made by `Pins.pin`. A context manager, of one use.

    Attributes:
        brief: One call of the model, soon over.
    """

    def __init__(self, pins: Pins, brief: bool, frame: FrameType | None) -> None:
        self._pins = pins
        self.brief = brief
        self.thread = threading.get_ident()
        self.frame = frame

    def release(self) -> None:
        """Release the state; in any thread, and any number of times."""
        self._pins.release(self)

    def abandoned(self) -> bool:
        """Whether its frame has ended without releasing it, as after Ctrl-C."""
        if self.frame is None:
            return False
        frame = sys._current_frames().get(self.thread)
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is None

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Pins:
    """A lock that many hold to read and one to commit.

    A commit that waits holds newcomers back, so that it gets its turn when the calls under way have
    ended. That would let everybody wait for the one who pinned a state for long, so newcomers pass
    while there is such a pin; only new long ones are held back once the commit has waited for
    `patience`. Nobody waits for a waiting commit for longer than `patience`, so that threads that
    wait for each other cannot block for ever. A thread that holds a pin always gets another.

    Args:
        patience: Seconds.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._changed = threading.Condition()
        self._pins: list[Pin] = []
        self._since: float | None = None
        self._busy = False
        #: The thread that commits.
        self._committer: int | None = None

    def held(self) -> bool:
        """Whether this thread holds a pin."""
        with self._changed:
            return self._holds()

    @property
    def awaited(self) -> bool:
        """Whether a commit waits for pins to be released."""
        return self._since is not None

    def _holds(self) -> bool:
        me = threading.get_ident()
        return any(pin.thread == me and not pin.abandoned() for pin in self._pins)

    def pin(
        self, *, brief: bool, timeout: float | None = None, frame: FrameType | None = None
    ) -> Pin:
        """Take a pin.

        Args:
            brief: For one call of the model.
            timeout: Most seconds to wait.
            frame: When this frame of this thread has ended, the pin counts as released.

        Raises:
            TimeoutError: It took longer.
        """
        begin = time.monotonic()
        end = None if timeout is None else begin + timeout
        with self._changed:
            # First the cheap question, then the one that looks through all pins.
            while (self._busy or self._since is not None) and not self._passes(brief, begin):
                if not wait_briefly(self._changed, end, _LOOK):
                    raise TimeoutError(f"no pin in {timeout} s: a commit is under way")
            pin = Pin(self, brief, frame)
            self._pins.append(pin)
            return pin

    def _passes(self, brief: bool, begin: float) -> bool:
        if self._holds():
            return True
        if self._busy:
            return False
        if self._since is None:
            return True
        now = time.monotonic()
        if now - begin >= self.patience:
            return True
        impatient = now - self._since >= self.patience
        return any(not pin.brief for pin in self._pins) and (brief or not impatient)

    def release(self, pin: Pin) -> None:
        """See `Pin.release`."""
        with self._changed:
            if pin in self._pins:
                self._pins.remove(pin)
                if self._since is not None:
                    self._changed.notify_all()

    @contextmanager
    def commit(self, check: Callable[[], None]) -> Iterator[float]:
        """Wait until there are no pins, and let there be none within the block.

        Args:
            check: Called now and then while it waits; what it raises ends the waiting.

        Yields:
            Seconds waited.

        Raises:
            UsageError: This thread holds a pin itself.
        """
        begin = time.monotonic()
        with self._changed:
            if self._holds():
                raise UsageError("this thread has pinned the state that the commit would replace")
            self._since = begin
            try:
                while self._pins:
                    check()
                    self._changed.wait(_LOOK)
                    self._pins = [pin for pin in self._pins if not pin.abandoned()]
                self._busy, self._committer = True, threading.get_ident()
            finally:
                self._since = None
                self._changed.notify_all()
        try:
            yield time.monotonic() - begin
        finally:
            with self._changed:
                self._busy, self._committer = False, None
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait for the end of a commit, and let none begin: the child's memory has to be whole."""
        self._changed.acquire()
        end = time.monotonic() + _LONGEST_COMMIT
        while self._busy and self._committer != threading.get_ident():
            if not wait_briefly(self._changed, end):
                return

    def after_fork(self, *, child: bool) -> bool:
        """Go on; in the child without pins.

        Returns:
            Whether a commit was under way: then the memory is between two states.
        """
        torn = self._busy
        if not child:
            self._changed.release()
            return torn
        self._changed = threading.Condition()
        self._pins, self._since, self._busy, self._committer = [], None, False, None
        return torn

    def wake(self) -> None:
        """Let a waiting commit call its ``check``."""
        with self._changed:
            self._changed.notify_all()
