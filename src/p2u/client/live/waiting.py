"""Wait for a state of a live model: by its name, or the best one that a deadline allows."""

from __future__ import annotations

import time
from collections.abc import Callable

from p2u.client.live.parts import LiveParts
from p2u.client.live.phase import Phase
from p2u.client.transfer.control import LOOK, in_time, too_late, wait_briefly
from p2u.errors import UsageError

#: Instead of a label: the best state that the deadline allows.
BEST = "best"

#: With a deadline to keep, a waiting thread looks again after as many seconds.
_SHORT_LOOK = 0.02


class Waiting:
    """Lets threads wait for states of a live model. Thread-safe.

    Args:
        parts: Of the model.
    """

    def __init__(self, parts: LiveParts) -> None:
        self._plan = parts.plan
        self._status = parts.status
        self._pins = parts.pins
        self._connection = parts.connection

    def wait(self, state: str | None, timeout: float | None) -> None:
        """See `Replica.wait`."""
        if state is None:
            self._until(self._finished, self._plan.until, timeout)
        else:
            self._until(lambda: self._has(state), state, timeout)

    def wait_for_pin(self, require: str | None, timeout: float | None) -> None:
        """Wait for a state that is good enough for `Replica.pinned`; None: for any."""
        self._until(lambda: self._has(require), require or self._plan.until, timeout)

    def need_state(self) -> None:
        """Raise unless there is a state."""
        with self._status.changed:
            if self._status.state is None:
                if self._status.fault is not None:
                    raise self._status.fault.error
                raise UsageError("no state is complete yet", hint='Call wait("base") first')

    def _until(self, reached: Callable[[], bool], name: str, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        status = self._status
        with status.changed:
            while not reached():
                if status.failure is not None:
                    raise status.failure
                if not status.running:
                    raise UsageError("the replica has ended without this state")
                here = status.state
                if here and here.id in status.complete[-1:] and self._pins.held():
                    title = here.label if status.route.one_version() else here.id
                    raise UsageError(
                        f"this thread has pinned the state {title!r} and would wait for ever",
                        hint="Leave the block of pinned() first",
                    )
                look = _SHORT_LOOK if name == BEST else LOOK
                if not wait_briefly(status.changed, end, look):
                    raise self._too_late(name, timeout)

    def _too_late(self, name: str, timeout: float | None) -> TimeoutError:
        """The error of a wait that took too long, with what has gone wrong meanwhile."""
        fault = self._status.fault
        cause = fault.error if fault is not None else self._connection.package.fetcher.failure
        return too_late(name, timeout, cause)

    def _finished(self) -> bool:
        """Whether the last state that was asked for is here."""
        if self._status.running:
            return self._status.phase is Phase.SETTLED and self._plan.follow is not None
        return self._status.fault is None

    def _has(self, name: str | None) -> bool:
        """Whether the state here is as good as a named one."""
        complete = self._status.complete
        if name == BEST:
            return self._has_best()
        if name is None or not complete:
            return bool(complete)
        place = self._place(name)
        return place is not None and list(self._status.route.labels).index(complete[-1]) >= place

    def _has_best(self) -> bool:
        """Whether there is a state, and the next one would come after the deadline."""
        count, marks = len(self._status.complete), self._status.route.marks
        if 0 < count < len(marks) and self._status.running:
            meter = self._connection.package.meter
            left = marks[count][1] - meter.done
            deadline = self._plan.deadline or 0.0
            return not in_time(left, meter.rate(), meter.seconds, deadline)
        return count > 0

    def _place(self, name: str) -> int | None:
        """The place of a state on the route; None where that is not known yet.

        Raises:
            UsageError: It is not on the route, and no later version will have it.
        """
        route = self._status.route
        # The version at the end may lack the label that was asked for.
        asked = route.wanted if name == self._plan.until else None
        place = route.place(asked or name)
        if place is None and route.labels and not self._may_come(name):
            has = ", ".join(route.labels.values())
            raise UsageError(f"this replica does not come by a state {name!r}; it has {has}")
        return place

    def _may_come(self, name: str) -> bool:
        """Whether a state that is not on the route may be that of a later version."""
        manifest, here = self._connection.package.known_manifest, self._status.state
        if self._plan.follow is None and not self._status.refreshing:
            return False
        if manifest is None or here is None:
            return True
        found = [s.id for s in manifest.states if name in (s.id, s.label, s.version)]
        ids = [s.id for s in manifest.states]
        return not found or here.id not in ids or ids.index(found[-1]) > ids.index(here.id)
