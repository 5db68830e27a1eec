"""The transitions of a live model's phase and fault, one by one."""

from __future__ import annotations

import threading
import time

import pytest

from p2u.client.live.phase import FaultKind, LiveStatus, Phase
from p2u.client.live.route_states import RouteStates
from p2u.client.transfer.control import Stop
from p2u.errors import Cancelled, FormatError, StoreError
from p2u.package.manifest import State

BASE = State("v1", "base", "0" * 64, 1, 20.0, 4.0)
EXACT = State("v1", "exact", "1" * 64, 2, None, 16.0)
DEAD = StoreError("dead (on purpose)")
BROKEN = FormatError("broken (on purpose)")


def make(follow: float | None = None, *states: State) -> tuple[LiveStatus, Stop]:
    stop = Stop()
    status = LiveStatus(stop, "file:pkg", follow)
    for state in states:
        status.replace(state)
        status.announce(state)
    return status, stop


def fault(status: LiveStatus) -> tuple[FaultKind, Phase] | None:
    return None if status.fault is None else (status.fault.kind, status.fault.phase)


def test_without_following_it_settles_and_ends() -> None:
    status, _ = make(None, BASE, EXACT)
    assert status.phase is Phase.REFINING and status.running
    assert not status.next_look(None)
    assert status.phase is Phase.SETTLED
    assert status.end(None, FaultKind.RETRY)
    assert status.phase is Phase.ENDED and not status.running and status.fault is None
    assert not status.resume()
    assert status.state == EXACT and status.complete == ("v1@base", "v1@exact")


def test_a_refresh_starts_again_and_a_broken_version_blocks() -> None:
    status, _ = make(None, EXACT)
    status.next_look(None)
    status.end(None, FaultKind.RETRY)
    assert status.refresh() and status.phase is Phase.LOOKING and status.refreshing
    assert not status.refresh()  # a thread runs
    assert status.next_look(None)  # at once
    assert not status.next_look(BROKEN)
    assert status.phase is Phase.BLOCKED and status.failure is BROKEN and not status.refreshing
    assert status.end(None, FaultKind.RETRY)
    assert fault(status) == (FaultKind.PACKAGE, Phase.BLOCKED)
    assert not status.resume()  # all else is here
    assert status.refresh() and status.fault is None


def test_a_refresh_that_comes_late_is_not_lost() -> None:
    """After the thread has found nothing to do, and before it ends."""
    status, _ = make(None, EXACT)
    assert not status.next_look(None)
    assert not status.refresh()
    assert not status.end(None, FaultKind.RETRY)
    assert status.next_look(None)
    assert not status.next_look(None)
    assert status.end(None, FaultKind.RETRY)


@pytest.mark.parametrize("phase", [Phase.REFINING, Phase.LOOKING])
def test_a_failure_ends_it_and_resume_returns_to_its_phase(phase: Phase) -> None:
    status, _ = make(None, BASE)
    if phase is Phase.LOOKING:
        assert not status.refresh()
        assert status.next_look(None)
    assert not status.retry(DEAD)
    assert status.end(DEAD, FaultKind.RETRY)
    assert fault(status) == (FaultKind.RETRY, phase) and status.failure is DEAD
    assert status.refreshing == (phase is Phase.LOOKING)
    assert status.resume()
    assert status.phase is phase and status.fault is None
    assert status.next_look(None) == (phase is Phase.LOOKING)  # the look is not forgotten


def test_a_broken_package_cannot_be_resumed() -> None:
    status, _ = make(None, BASE)
    status.end(BROKEN, FaultKind.PACKAGE)
    with pytest.raises(FormatError):
        status.resume()
    assert status.refresh()  # there may be a newer one


def test_a_memory_fault_stays() -> None:
    status, _ = make(0.01, BASE)
    status.spoil(BROKEN)
    status.spoil(DEAD)
    assert status.memory_fault and status.failure is BROKEN and status.running
    assert not status.retry(DEAD)
    assert status.end(DEAD, FaultKind.RETRY)
    assert fault(status) == (FaultKind.MEMORY, Phase.REFINING)
    for action in (status.resume, status.refresh, status.check_memory):
        with pytest.raises(FormatError):
            action()


def test_while_following_a_failure_passes() -> None:
    status, _ = make(0.01, EXACT)
    assert status.next_look(None)
    assert status.retry(DEAD)
    assert fault(status) == (FaultKind.RETRY, Phase.SETTLED)
    assert status.failure is None  # nobody is told while it is tried again
    assert status.next_look(None) and status.fault is not None  # at once, and not settled
    assert status.next_look(BROKEN)
    assert fault(status) == (FaultKind.PACKAGE, Phase.BLOCKED)
    assert status.retry(DEAD) and status.phase is Phase.BLOCKED and status.failure is None
    status.next_look(None)
    assert status.next_look(None) and status.phase is Phase.SETTLED and status.fault is None


def test_without_a_state_a_failure_does_not_pass() -> None:
    status, _ = make(0.01)
    assert not status.retry(DEAD)
    status, _ = make(0.01, BASE)
    assert not status.retry(KeyboardInterrupt())


def test_failures_one_after_the_other_wait_each_time() -> None:
    """Also where none of them gets as far as a look."""
    status, _ = make(0.1, BASE)
    begin = time.monotonic()
    for _ in range(3):
        assert status.retry(DEAD)
    assert time.monotonic() - begin >= (0.2 + 0.4 + 0.8) / 2


def test_a_sleeping_thread_wakes_for_a_refresh_and_a_cancellation() -> None:
    status, stop = make(3600.0, EXACT)
    for wake, more in ((status.refresh, True), (stop.call, False)):
        found: list[bool] = []

        def look() -> None:
            found.append(status.next_look(None))  # noqa: B023 - joined below

        thread = threading.Thread(target=look)
        thread.start()
        while status.phase is not Phase.SETTLED:
            time.sleep(0.001)
        wake()
        thread.join(5)
        assert found == [more]
    with pytest.raises(Cancelled):
        status.refresh()
    assert status.end(Cancelled("cancelled"), FaultKind.RETRY)
    with pytest.raises(Cancelled):
        status.resume()


def test_the_thread_changes_nothing_after_its_end() -> None:
    status, _ = make(None, BASE)
    status.end(None, FaultKind.RETRY)
    for action in (
        lambda: status.next_look(None),
        lambda: status.end(None, FaultKind.RETRY),
    ):
        with pytest.raises(AssertionError):
            action()


def test_places_of_states() -> None:
    route = RouteStates().begin(["v1@base", "v1@exact", "v2@exact"], (("base", 1),))
    assert [route.place(n) for n in ("base", "v1@exact", "exact", "v1", "v2")] == [0, 1, 2, 1, 2]
    assert route.place("v3") is None and not route.one_version()
    later = route.follow(["v3@exact"], 9)
    assert (later.target, later.marks) == ("exact", (("exact", 9),))
    # A label is that of the first route.
    assert [later.place(n) for n in ("exact", "v3")] == [2, 3]
    # Without one, it is the first state after it.
    assert later.shorten(1).place("exact") == 1
