"""The phase and the fault of a live model, and all that may change them."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from enum import Enum

from p2u.client.live.route_states import RouteStates
from p2u.client.transfer.control import Stop, wait_briefly
from p2u.errors import Cancelled, P2UError, UsageError
from p2u.package.manifest import State
from p2u.stores.backoff import Backoff

_log = logging.getLogger("p2u")

#: Most seconds between two attempts to follow, unless looks are further apart.
_LONGEST = 60.0


class Phase(Enum):
    """The phases of a live model."""

    #: Its first route goes on, from nothing to the state wanted.
    REFINING = "refining"
    #: `refresh` was called, and the newest version is not here yet.
    LOOKING = "looking"
    #: The state wanted is here. While following, the thread looks for newer ones now and then.
    SETTLED = "settled"
    #: As SETTLED, but a fault of the package keeps the newest version away.
    BLOCKED = "blocked"
    #: No thread runs.
    ENDED = "ended"


class FaultKind(Enum):
    """The kinds of faults, by how long they stay."""

    #: It passes by itself: the network, a full disk, a blob that is damaged or not there yet.
    RETRY = "retry"
    #: This version is broken, or does not fit the model: it stays until there is a newer one.
    PACKAGE = "package"
    #: The memory holds no valid state any more: it stays.
    MEMORY = "memory"
    #: The thread is in the process that this one was forked from: it stays.
    FORK = "fork"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error, and what it means.

    Attributes:
        kind: How long it stays.
        error: The error.
        phase: The phase in which it occurred.
    """

    kind: FaultKind
    error: BaseException
    phase: Phase


class LiveStatus:
    """The one place of a live model that changes its phase, its fault and its state. Thread-safe.

    ========= ============== =================================== ==================================
    method    called by      in the phase                        leads to
    ========= ============== =================================== ==================================
    next_look the thread     any but ENDED                       SETTLED; with an error of the
                                                                 package, BLOCKED and that fault
    retry     the thread     any but ENDED, while following      the same, and a retry fault
    spoil     who commits    any                                 the same, and a memory fault
    end       the thread     any but ENDED                       ENDED, and the fault that ended it
    refresh   the user       any, without a memory fault         LOOKING; from ENDED, no fault
    resume    the user       ENDED by a retry fault              the phase that failed, no fault
    fork      a fork's child any                                 ENDED, and a fork fault unless all
                                                                 that was wanted is here
    ========= ============== =================================== ==================================

    A retry fault ends when the model settles, a package fault when it settles without an error.
    A memory fault is never replaced. After ``fork`` nothing changes any more. Calling ``stop`` ends
    the thread in any phase, for good.

    Args:
        stop: Called to cancel.
        url: Of the package, for the log.
        follow: Seconds between two looks for a new version; None: only `refresh` looks.

    Attributes:
        changed: Notified of every change. Hold it to read several attributes that agree.
    """

    def __init__(self, stop: Stop, url: str, follow: float | None) -> None:
        self.changed = threading.Condition()
        self._stop = stop
        self._url = url
        self._follow = follow
        self._phase = Phase.REFINING
        self._fault: Fault | None = None
        self._state: State | None = None
        self._complete: tuple[str, ...] = ()
        self._route = RouteStates()
        #: Failed attempts since the model has settled last.
        self._failures = 0
        #: A look that `refresh` has asked for, one that a failure has put off: not begun yet.
        self._asked = self._overdue = False
        #: In the child of a fork, the error that says so.
        self._forked: UsageError | None = None
        stop.on_call(self._wake)

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    @property
    def fault(self) -> Fault | None:
        """The present fault; None if all is well."""
        return self._fault

    @property
    def state(self) -> State | None:
        """The state that the memory holds; None before the first."""
        return self._state

    @property
    def complete(self) -> tuple[str, ...]:
        """Ids of the states that have been complete and checked, the last one at the end."""
        return self._complete

    @property
    def route(self) -> RouteStates:
        """The states on the route."""
        return self._route

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._phase is not Phase.ENDED

    @property
    def memory_fault(self) -> bool:
        """Whether the memory holds no valid state any more."""
        return self._fault is not None and self._fault.kind is FaultKind.MEMORY

    @property
    def failure(self) -> BaseException | None:
        """The error to raise in waiting threads: that of a fault which is not being tried again."""
        fault = self._fault
        if fault is None or (fault.kind is FaultKind.RETRY and self.running):
            return None
        return fault.error

    @property
    def refreshing(self) -> bool:
        """Whether `refresh` was called, and the look for a newer version has not succeeded yet."""
        failed = None if self._fault is None or self.running else self._fault.phase
        return Phase.LOOKING in (self._phase, failed)

    def check_memory(self) -> None:
        """Raise the error that has left the memory without a valid state, if there is one."""
        if self._fault is not None and self.memory_fault:
            raise self._fault.error

    # The thread: states.

    def on_route(self, route: RouteStates) -> None:
        """Make known which states come next."""
        with self.changed:
            self._route = route
            self.changed.notify_all()

    def replace(self, state: State) -> None:
        """The memory holds another state."""
        with self.changed:
            self._state = state
            self.changed.notify_all()

    def announce(self, state: State) -> None:
        """The state that the memory holds is complete and checked."""
        with self.changed:
            kept = tuple(id_ for id_ in self._complete if id_ != state.id)
            self._complete = (*kept, state.id)
            self.changed.notify_all()

    # The thread: phases and faults.

    def next_look(self, error: P2UError | None) -> bool:
        """Settle, and wait for the next look at newer versions; return False if there is none.

        Args:
            error: The fault of the package that keeps the newest version away.
        """
        with self.changed:
            if not (self._asked or self._overdue):
                self._settle(error)
                if self._follow is None:
                    return False
                self._sleep(self._follow)
            self._asked = self._overdue = False
            return not self._stop.called

    def _settle(self, error: P2UError | None) -> None:
        self._check_running()
        if error is not None and (self._fault is None or self._fault.error is not error):
            here = self._state.id if self._state is not None else None
            _log.warning("%s stays at %s: %s", self._url, here, error)
        self._failures = 0
        self._phase = Phase.SETTLED if error is None else Phase.BLOCKED
        self._fault = None
        if error is not None:
            self._fault = Fault(FaultKind.PACKAGE, error, self._phase)
        self.changed.notify_all()

    def retry(self, error: BaseException) -> bool:
        """Wait for another attempt after a failed one; return False if there is none."""
        if self._follow is None or not isinstance(error, Exception) or self._stop.called:
            return False
        with self.changed:
            self._check_running()
            if self.memory_fault or self._state is None:
                return False
            if not self._failures:
                _log.warning("following %s: %s; trying again", self._url, error)
            self._failures += 1
            self._fault = Fault(FaultKind.RETRY, error, self._phase)
            self.changed.notify_all()
            longest = max(_LONGEST, self._follow) if self._follow < math.inf else _LONGEST
            backoff = Backoff(2 * min(self._follow, 1.0), longest)
            self._sleep(backoff.delay(self._failures))
            self._asked, self._overdue = False, True
            return True

    def spoil(self, error: BaseException) -> None:
        """An error has left the memory without a valid state."""
        with self.changed:
            if not self.memory_fault:
                self._fault = Fault(FaultKind.MEMORY, error, self._phase)
                self.changed.notify_all()

    def end(self, error: BaseException | None, kind: FaultKind) -> bool:
        """End the thread; False if it has to go on, since `refresh` was called meanwhile.

        Args:
            error: The error that ends it, if it is one.
            kind: Whether trying again may help against it.
        """
        with self.changed:
            self._check_running()
            if error is None and self._asked and not self._stop.called:
                return False
            if not self.memory_fault:
                if error is not None:
                    self._fault = Fault(kind, error, self._phase)
                elif self._fault is not None and self._fault.kind is FaultKind.RETRY:
                    self._fault = None
            self._phase = Phase.ENDED
            self.changed.notify_all()
            return True

    def _sleep(self, seconds: float) -> None:
        """Until then, or `refresh`, or a cancellation."""
        end = time.monotonic() + seconds
        while not self._asked and not self._stop.called:
            if not wait_briefly(self.changed, end, 3600.0):
                return

    def _check_running(self) -> None:
        assert self.running, "the thread has ended"

    # The user.

    def refresh(self) -> bool:
        """Ask for a look at the newest version; return whether a thread has to be started.

        Raises:
            Cancelled: It was cancelled.
            The error of a memory fault.
        """
        with self.changed:
            if self._stop.called:
                raise Cancelled("the transfer was cancelled")
            self.check_memory()
            if self._forked is not None:
                raise self._forked
            ended = not self.running
            if ended:
                self._fault = None
            self._phase, self._asked = Phase.LOOKING, True
            self.changed.notify_all()
            return ended

    def resume(self) -> bool:
        """Go on after a fault that passes; return whether a thread has to be started.

        Raises:
            The error of a fault that trying again cannot mend, or Cancelled.
        """
        with self.changed:
            self.check_memory()
            fault = self._fault
            if fault is None or self.running:
                return False
            if self._forked is not None:
                raise self._forked
            if isinstance(fault.error, Cancelled):
                raise fault.error
            if fault.kind is FaultKind.PACKAGE:
                if fault.phase is Phase.BLOCKED:
                    return False  # all else is here
                raise fault.error
            self._phase, self._fault = fault.phase, None
            self._asked = self._asked or fault.phase is Phase.LOOKING
            self.changed.notify_all()
            return True

    # The child of a fork.

    @property
    def forked(self) -> bool:
        """Whether the thread is in the process that this one was forked from."""
        return self._forked is not None

    def fork(self, *, torn: bool) -> None:
        """This process was forked: the thread is in its parent, and with it all that it does.

        Args:
            torn: The memory is between two states.
        """
        self.changed = threading.Condition()  # some thread of the parent may hold the other one
        here = self._state.id if self._state is not None else "nothing"
        self._forked = UsageError(
            f"this process was forked from the one that opened the package: its copy of the model "
            f"stays at {here}",
            file=self._url,
            hint="Open the package after the fork, in each process (gunicorn: in post_fork)",
        )
        complete = not self.running and self._fault is None
        if torn and not self.memory_fault:
            self._fault = Fault(FaultKind.MEMORY, self._forked, self._phase)
        elif not complete and not self.memory_fault:
            self._fault = Fault(FaultKind.FORK, self._forked, self._phase)
        self._phase = Phase.ENDED

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()
