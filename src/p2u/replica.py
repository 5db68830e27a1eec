"""``p2u.open``: a model in memory that sharpens while it is used."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from p2u._client.control import LOOK, Progress, wait_briefly
from p2u._client.course import MODES, STAGINGS, Commit, Course, Plan
from p2u._client.gate import Pin
from p2u._client.memory import Files
from p2u.errors import Cancelled, UsageError
from p2u.plan import in_time
from p2u.stores import Store

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Commit", "Pinned", "Progress", "Replica", "load"]

_log = logging.getLogger("p2u")

#: Instead of a label: the best state that the deadline allows.
BEST = "best"

#: With a deadline to keep, a waiting thread looks again after as many seconds.
_SHORT_LOOK = 0.02


class Replica:
    """A live copy of a package in memory; made by ``p2u.open``. Thread-safe.

    Threads in the background fetch and check chunks. From the first state on, the tensors are
    usable; at the state wanted they rest. See ``docs/live.md`` for modes, staging and pins.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._changed = threading.Condition()
        #: States that are complete and checked.
        self._states: list[str] = []
        #: The state that the memory holds; None before the first.
        self._label: str | None = None
        self._error: BaseException | None = None
        self._commits: list[Commit] = []
        self._callbacks: list[Callable[[str], None]] = []
        self._actions: list[Callable[[str], None]] = []
        self._arrays: Mapping[str, np.ndarray[Any, Any]] | None = None
        self._running = True
        self._thread = self._start()

    @property
    def state(self) -> str | None:
        """Label of the state that the tensors hold; None before the first.

        In eager mode, that is the last complete one, and tensors may be sharper.
        """
        with self._changed:
            return self._label

    @property
    def states(self) -> tuple[str, ...]:
        """Labels of the states on the way, in order; empty until the manifest is here."""
        return tuple(self._course.labels.values())

    @property
    def mode(self) -> str:
        """``"eager"`` or ``"atomic"``."""
        return self._course.plan.mode

    @property
    def staging(self) -> str | None:
        """How the last update came, or comes, into memory: ``"direct"``, ``"copy"``, ``"chunks"``.

        None before the first update.
        """
        return self._course.staging

    @property
    def error(self) -> BaseException | None:
        """What ended the transfer early; None while it runs and if it reached its end."""
        with self._changed:
            return self._error

    @property
    def commits(self) -> tuple[Commit, ...]:
        """Each change from one state to the next so far, and how long it kept callers waiting."""
        with self._changed:
            return tuple(self._commits)

    @property
    def tensors(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Name to array in the original dtype: read-only views of the live memory, no copies.

        While nobody pins a state, or in eager mode, a reader may see rows of this and of the next
        state side by side. A name that several files have is preceded by the file's path and a
        colon.

        Raises:
            UsageError: No state is complete yet: ``wait("base")`` first.
        """
        with self._changed:
            if self._arrays is None:
                self._arrays = MappingProxyType(self.memory.arrays(writable=False))
            return self._arrays

    @property
    def files(self) -> Mapping[str, memoryview]:
        """Path to the bytes of each file of the model, read-only; configuration, tokenizer.

        Raises:
            UsageError: No state is complete yet.
        """
        return self.memory.carried()

    @property
    def memory(self) -> Files:
        """Layout and writable memory of all files, for adapters that make their own views.

        Raises:
            UsageError: No state is complete yet.
        """
        with self._changed:
            self._need_state()
            return self._course.need_files()

    @property
    def progress(self) -> Progress:
        """How far the transfer is."""
        with self._changed:
            meter, marks = self._course.package.meter, self._course.marks
            return Progress(
                self._label,
                self._course.target if self._running else None,
                meter.done,
                marks[-1][1] if marks else 0,
                meter.rate(),
                meter.seconds,
                marks,
            )

    def wait(self, state: str | None = None, timeout: float | None = None) -> None:
        """Return when a state is complete.

        Args:
            state: Its label or id; by default the last one of this replica. ``"best"``: the best
                one that the bandwidth measured can deliver by the replica's deadline, or the first.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It took longer.
            UsageError: This replica does not come by such a state, or this thread has pinned an
                earlier one.
            P2UError: Whatever ended the transfer before the state was complete.
        """
        self._wait(lambda: self._reached(state), state, timeout)

    def pinned(
        self, require: str | None = None, timeout: float | None = None, *, brief: bool = False
    ) -> Pinned:
        """Hold a state: ``with replica.pinned() as state:`` gives its label.

        Within the block the tensors are of that state and do not change, in atomic mode; eager mode
        holds nothing. Any number of threads may pin, and a thread again what it has pinned. The
        next state waits for them all; other callers do not, as long as it has waited less than
        ``patience``.

        Args:
            require: Label or id of the worst state that will do; wait for it. By default the first;
                ``"best"`` as in `wait`.
            timeout: Most seconds to wait.
            brief: For one call of the model, soon over: others may be kept waiting for it.

        Raises:
            The errors of `wait`; IntegrityError or FormatError where a faulty package has left the
            memory without a valid state.
        """
        return Pinned(self, require, timeout, brief)

    def on_state(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(label)`` for each state that is complete, those before now at once.

        Calls come from a background thread (at once: from this one), and nobody is kept waiting for
        them. The tensors do not change before they return: the next state waits.
        """
        with self._changed:
            self._callbacks.append(callback)
            before = tuple(self._states)
        for label in before:
            callback(label)

    def on_commit(self, action: Callable[[str], None]) -> None:
        """Call ``action(label)`` as a part of each later commit, for copies that have to agree.

        The tensors hold the new state, and nobody has a pin until it returns. What it raises ends
        the transfer, and no state can be pinned any more.
        """
        with self._changed:
            self._actions.append(action)

    def resume(self) -> None:
        """Go on after an error, with what is missing; nothing if the transfer runs or is complete.

        Raises:
            Cancelled: It was cancelled.
            P2UError: The error, if it was one that trying again cannot mend.
        """
        with self._changed:
            if self._error is None or self._running:
                return
            if isinstance(self._error, Cancelled) or self._course.hopeless:
                raise self._error
            self._error = None
            self._running = True
            self._thread = self._start()

    def cancel(self) -> None:
        """Stop the transfer for good, and free what it holds.

        The tensors stay as they are: in eager mode they may be between two states.
        """
        self._course.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __deepcopy__(self, memo: dict[int, object]) -> Replica:
        """A handle of something that runs: the copy of a model that carries it has the same."""
        return self

    def __enter__(self) -> Replica:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def _wait(self, reached: Callable[[], bool], state: str | None, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not reached():
                if self._error is not None:
                    raise self._error
                if not self._running:
                    raise UsageError("the replica has ended without this state")
                last = self.states[-1:]
                if self._label is not None and (self._label,) != last and self._course.gate.held():
                    raise UsageError(
                        f"this thread has pinned the state {self._label!r} and would wait for ever",
                        hint="Leave the block of pinned() first",
                    )
                look = _SHORT_LOOK if state == BEST else LOOK
                if not wait_briefly(self._changed, end, look):
                    wanted = state or self._course.plan.until
                    raise TimeoutError(f"state {wanted!r} not reached in {timeout} s")

    def _reached(self, state: str | None) -> bool:
        if state is None:
            return not self._running and self._error is None
        return self._is_best() if state == BEST else self._find(state) in self._states

    def _is_best(self) -> bool:
        """Whether there is a state, and the next one would come after the deadline."""
        count, marks = len(self._states), self._course.marks
        if 0 < count < len(marks) and self._running:
            meter = self._course.package.meter
            left = marks[count][1] - meter.done
            deadline = self._course.plan.deadline or 0.0
            return not in_time(left, meter.rate(), meter.seconds, deadline)
        return count > 0

    def _find(self, state: str) -> str | None:
        """The label of a state on the way; None while the manifest is not here."""
        labels = self._course.labels
        if not labels:
            return None
        label = labels.get(state, state)
        if label not in labels.values():
            raise UsageError(
                f"this replica does not come by a state {state!r}; it has "
                f"{', '.join(labels.values())}"
            )
        return label

    def _good_enough(self, require: str | None) -> bool:
        if not self._states:
            return False
        if require is None:
            return True
        if require == BEST:
            return self._is_best()
        way = self.states
        label = self._find(require)
        return label is not None and way.index(self._states[-1]) >= way.index(label)

    def _need_state(self) -> None:
        if self._label is None:
            if self._error is not None:
                raise self._error
            raise UsageError("no state is complete yet", hint='Call wait("base") first')

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True, name="p2u-replica")
        thread.start()
        return thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._course.run(self._replace, self._announce)
        except BaseException as raised:  # noqa: BLE001 - raised again by wait()
            error = raised
        with self._changed:
            self._error = error
            self._running = False
            self._changed.notify_all()

    def _replace(self, label: str, commit: Callable[[], None], waited: float) -> None:
        """Change the memory from one state to the next; nobody has a pin."""
        begin = time.monotonic()
        commit()
        with self._changed:
            first = self._label is None
            self._label = label
            actions = tuple(self._actions)
        for action in actions:
            action(label)
        if not first:
            with self._changed:
                self._commits.append(Commit(label, time.monotonic() - begin, waited))

    def _announce(self, label: str) -> None:
        with self._changed:
            self._states.append(label)
            callbacks = tuple(self._callbacks)
            self._changed.notify_all()
        for callback in callbacks:
            try:
                callback(label)
            except Exception:  # noqa: BLE001 - whatever it raises
                # The transfer is not the callback's: it goes on.
                _log.exception("a callback of Replica.on_state failed")


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


def check_options(mode: str, staging: str) -> None:
    """Raises UsageError unless both are known."""
    for name, value, known in (("mode", mode, MODES), ("staging", staging, STAGINGS)):
        if value not in known:
            raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def load(
    source: str | os.PathLike[str] | Store, state: str = "base", *, jobs: int | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of one state of a package, by name, writable.

    Args:
        source: Path or URL of the package, or an open store.
        state: Label or id.
        jobs: Threads.

    Raises:
        P2UError: See ``p2u.pull``.
    """
    plan = Plan(state, "eager", polite=False, jobs=jobs)
    replica = Replica(Course(source, plan))
    try:
        replica.wait()
        return replica.memory.arrays(writable=True)
    finally:
        replica.cancel()
