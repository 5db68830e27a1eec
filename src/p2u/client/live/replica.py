"""``p2u.open``: a model in memory that sharpens while it is used."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from p2u.client.live.live_transfer import Commit, LiveTransfer
from p2u.client.live.memory import ModelMemory
from p2u.client.live.pinned import Pinned
from p2u.client.transfer.control import LOOK, Progress, in_time, wait_briefly
from p2u.errors import Cancelled, UsageError
from p2u.package.manifest import State

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Commit", "Pinned", "Progress", "Replica"]

_log = logging.getLogger("p2u")

#: Instead of a label: the best state that the deadline allows.
BEST = "best"

#: Seconds between two tries to follow while the package cannot be read, at most.
_LONGEST = 60.0

#: With a deadline to keep, a waiting thread looks again after as many seconds.
_SHORT_LOOK = 0.02


class Replica:
    """A live copy of a package in memory; made by ``p2u.open``. Thread-safe.

    Threads in the background fetch and check chunks. From the first state on, the tensors are
    usable; at the state wanted they rest. See ``docs/live.md`` for modes, staging and pins.
    """

    def __init__(self, course: LiveTransfer) -> None:
        self._course = course
        self._changed = threading.Condition()
        #: Ids of states that are complete and checked.
        self._states: list[str] = []
        #: The state that the memory holds; None before the first.
        self._state: State | None = None
        self._error: BaseException | None = None
        #: The error is one that passes, and trying goes on.
        self._retrying = False
        self._failures = 0
        #: Whether the state wanted is here, and nobody has asked for a newer one since.
        self._settled = False
        #: Look for a newer version without delay; because `refresh` was called.
        self._look = self._refreshing = False
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
            return self._state.label if self._state is not None else None

    @property
    def version(self) -> str | None:
        """Name of the version that the tensors are of, ``"v2"``; None before the first state.

        While a state is pinned, it is that state's.
        """
        with self._changed:
            return self._state.version if self._state is not None else None

    @property
    def id(self) -> str | None:
        """Id of the state that the tensors hold, ``"v2@exact"``; None before the first."""
        with self._changed:
            return self._state.id if self._state is not None else None

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
        """What ended the transfer early, or keeps a newer version away; None if all is well."""
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
    def memory(self) -> ModelMemory:
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
                self._state.label if self._state is not None else None,
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
            state: Its label, which is that of the newest version on the first way that has it; its
                id, or the name of a version. By default the last one of this replica, or the
                newest that was found where it follows versions. ``"best"``: the
                best one that the bandwidth measured can deliver by the replica's deadline, or the
                first.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It took longer.
            UsageError: This replica does not come by such a state, or this thread has pinned an
                earlier one. (One that follows waits for versions that are not published yet.)
            P2UError: Whatever ended the transfer before the state was complete, or what is wrong
                with a version. Not a failure of the network while it is tried again.
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
            before = [self._course.labels[state] for state in self._states]
        for label in before:
            callback(label)

    def on_commit(self, action: Callable[[str], None]) -> None:
        """Call ``action(label)`` as a part of each later commit, for copies that have to agree.

        The tensors hold the new state, and nobody has a pin until it returns. What it raises ends
        the transfer, and no state can be pinned any more.
        """
        with self._changed:
            self._actions.append(action)

    def refresh(self) -> None:
        """Look for a newer version now, and go on to the newest one; returns at once.

        `wait` waits until that is done. The new version is gathered beside the present one; all of
        its files are checked, and it takes effect at one moment when nobody has pinned a state.
        Versions between are left out. What was not complete yet is completed first.

        Raises:
            Cancelled: The replica was cancelled.
            P2UError: The memory has no valid state any more.
        """
        with self._changed:
            if self._course.cancelled:
                raise Cancelled("the transfer was cancelled")
            if self._course.spoilt is not None:
                raise self._course.spoilt
            if self._course.plan.mode != "atomic":
                raise UsageError("an eager replica cannot change versions", hint='mode="atomic"')
            self._look, self._refreshing, self._settled = True, True, False
            if not self._running:
                self._error = None
                self._running = True
                self._thread = self._start()
            self._changed.notify_all()

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
        with self._changed:
            self._changed.notify_all()
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
                if self._error is not None and not self._retrying:
                    raise self._error
                if not self._running:
                    raise UsageError("the replica has ended without this state")
                here = self._state.id if self._state is not None else None
                if here is not None and here in self._states[-1:] and self._course.gate.held():
                    raise UsageError(
                        f"this thread has pinned the state {self._title()!r} and would wait for "
                        "ever",
                        hint="Leave the block of pinned() first",
                    )
                look = _SHORT_LOOK if state == BEST else LOOK
                if not wait_briefly(self._changed, end, look):
                    wanted = state or self._course.plan.until
                    raise TimeoutError(f"state {wanted!r} not reached in {timeout} s")

    def _title(self) -> str:
        """What the state at hand is called where there is one version only."""
        state = self._state
        if state is None:
            return "none"
        versions = {id_.partition("@")[0] for id_ in self._course.labels}
        return state.label if len(versions) < 2 else state.id

    def _reached(self, state: str | None) -> bool:
        if state is None:
            if self._running:
                return self._settled and self._course.plan.follow is not None
            return self._error is None
        return self._is_best() if state == BEST else self._good_enough(state)

    def _is_best(self) -> bool:
        """Whether there is a state, and the next one would come after the deadline."""
        count, marks = len(self._states), self._course.marks
        if 0 < count < len(marks) and self._running:
            meter = self._course.package.meter
            left = marks[count][1] - meter.done
            deadline = self._course.plan.deadline or 0.0
            return not in_time(left, meter.rate(), meter.seconds, deadline)
        return count > 0

    def _find(self, state: str) -> int | None:
        """Place on the way of the first state that will do; None where that is not known yet.

        A label is that of the newest version on the first way that has it: the way may come by
        older ones. While following, any later one will do.
        """
        labels, first = self._course.labels, self._course.first
        if not labels:
            return None
        places = [n for n, (id_, label) in enumerate(labels.items()) if state in (id_, label)]
        ids = list(labels)
        own = [place for place in places if ids[place] in first]
        if places:
            return own[-1] if own else places[0]
        versions = [id_.partition("@")[0] for id_ in labels]
        if state in versions:
            return len(versions) - 1 - versions[::-1].index(state)
        if self._may_come(state):
            return None
        raise UsageError(
            f"this replica does not come by a state {state!r}; it has {', '.join(labels.values())}"
        )

    def _may_come(self, state: str) -> bool:
        """Whether a state that is not on the way may be that of a later version."""
        manifest, here = self._course.package.known_manifest, self._state
        if self._course.plan.follow is None and not self._refreshing:
            return False
        if manifest is None or here is None:
            return True
        found = [s.id for s in manifest.states if state in (s.id, s.label, s.version)]
        ids = [s.id for s in manifest.states]
        return not found or here.id not in ids or ids.index(found[-1]) > ids.index(here.id)

    def _good_enough(self, require: str | None) -> bool:
        if not self._states:
            return False
        if require is None:
            return True
        if require == BEST:
            return self._is_best()
        place = self._find(require)
        return place is not None and list(self._course.labels).index(self._states[-1]) >= place

    def _need_state(self) -> None:
        if self._state is None:
            if self._error is not None:
                raise self._error
            raise UsageError("no state is complete yet", hint='Call wait("base") first')

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True, name="p2u-replica")
        thread.start()
        return thread

    def _run(self) -> None:
        while True:
            error: BaseException | None = None
            try:
                self._course.run(self._replace, self._announce, self._more)
            except BaseException as raised:  # noqa: BLE001 - raised again by wait()
                error = raised
            if not self._tries_again(error):
                break
        with self._changed:
            self._error = error or self._course.follower.trouble
            self._running = self._retrying = False
            self._changed.notify_all()

    def _more(self) -> bool:
        """The newest version that could be found is here: when to look for another one."""
        plan = self._course.plan
        with self._changed:
            if not self._look:
                self._settle()
                if plan.follow is None:
                    return False
                self._sleep(plan.follow)
            self._look = False
            return not self._course.cancelled

    def _settle(self) -> None:
        """There is nothing to do. The caller holds the lock."""
        course = self._course
        trouble = course.follower.trouble
        if trouble is not None and trouble is not self._error:
            _log.warning("%s stays at %s: %s", course.package.url, self.id, trouble)
        self._failures, self._retrying, self._refreshing = 0, False, False
        self._error = trouble
        self._settled = trouble is None
        self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Until then, or `refresh`, or `cancel`. The caller holds the lock."""
        end = time.monotonic() + seconds
        while not self._look and not self._course.cancelled:
            if not wait_briefly(self._changed, end, 3600.0):
                return

    def _tries_again(self, error: BaseException | None) -> bool:
        """While following, failures pass: say so, wait, and try again."""
        course, follow = self._course, self._course.plan.follow
        if follow is None or not isinstance(error, Exception) or course.cancelled:
            return False
        if course.spoilt is not None or self._state is None:
            return False
        with self._changed:
            if not self._failures:
                _log.warning("following %s: %s; trying again", course.package.url, error)
            self._failures += 1
            self._error, self._retrying = error, True
            self._changed.notify_all()
            longest = max(_LONGEST, follow) if follow < math.inf else _LONGEST
            delay = min(longest, min(follow, 1.0) * 2.0 ** min(self._failures, 20))
            self._sleep(delay * random.uniform(0.5, 1.0))
            self._look = True
        return True

    def _replace(self, state: State, commit: Callable[[], None], waited: float) -> None:
        """Change the memory from one state to the next; nobody has a pin."""
        begin = time.monotonic()
        commit()
        with self._changed:
            first = self._state is None
            self._state = state
            actions = tuple(self._actions)
        for action in actions:
            action(state.label)
        if not first:
            pause = time.monotonic() - begin
            with self._changed:
                self._commits.append(Commit(state.label, pause, waited, state.id))

    def _announce(self, state: State) -> None:
        with self._changed:
            if state.id in self._states:
                self._states.remove(state.id)
            self._states.append(state.id)
            callbacks = tuple(self._callbacks)
            self._changed.notify_all()
        for callback in callbacks:
            try:
                callback(state.label)
            except Exception:  # noqa: BLE001 - whatever it raises
                # The transfer is not the callback's: it goes on.
                _log.exception("a callback of Replica.on_state failed")
