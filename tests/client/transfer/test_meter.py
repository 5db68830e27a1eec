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


def arrive(meter: Meter, clock: list[float], count: int, after: float) -> None:
    clock[0] += after
    meter.receive(count)


def test_a_stall_is_not_the_lines(clock: list[float]) -> None:
    """Threads that were kept from reading say nothing of the line, nor what gathered meanwhile."""
    meter = Meter()
    for _ in range(10):
        arrive(meter, clock, 1000, 0.01)
    assert meter.steady == (10_000, pytest.approx(0.1))
    arrive(meter, clock, 500_000, 5)
    arrive(meter, clock, 500_000, 0.01)
    assert meter.steady == (10_000, pytest.approx(0.1))
    arrive(meter, clock, 1000, 0.03)
    assert meter.steady == (11_000, pytest.approx(0.13))
    assert (meter.received, meter.seconds) == (1_011_000, pytest.approx(5.14))
