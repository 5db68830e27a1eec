"""The meter: bytes, and the time in which they came."""

from __future__ import annotations

import pytest

from p2u.client.transfer import control
from p2u.client.transfer.control import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    return now


def test_a_stall_is_not_the_lines(clock: list[float]) -> None:
    """Threads that were kept from reading say nothing of the line."""
    meter = Meter()
    for _ in range(10):
        clock[0] += 0.01
        meter.receive(1000)
    assert meter.busy == pytest.approx(0.1)
    clock[0] += 5
    meter.receive(1000)
    assert meter.busy == pytest.approx(0.1 + control._GAP)
    assert (meter.received, meter.seconds) == (11_000, pytest.approx(5.1))
