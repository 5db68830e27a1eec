"""Refining leaves the processors to a model that uses them all, and reads in portions."""

from __future__ import annotations

from typing import Any

import pytest

from p2u._client import pace
from p2u._client.control import Stop
from p2u._client.gate import Gate
from p2u._client.pace import SHARE, Pace
from p2u.errors import Cancelled
from p2u.stores import http
from p2u.stores.watchdog import Watchdog


class Clock:
    """Time that passes when somebody waits; the process uses so many processors meanwhile."""

    def __init__(self) -> None:
        self.now = self.used = 100.0
        self.load = 0.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.used

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds * self.load


class Waits(Stop):
    """A stop whose waiting moves a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def sleep(self, seconds: float) -> None:
        self.check()
        self._clock.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    monkeypatch.setattr(http, "time", found)
    monkeypatch.setattr(pace, "processors", lambda: 2)
    return found


def refine(clock: Clock, paced: Pace, work: float, times: int) -> float:
    """Seconds that some pieces of work take, each so many seconds of a processor."""
    stop, begin = Waits(clock), clock.now
    for _ in range(times):
        paced.wait(stop)
        clock.now += work
        clock.used += work * (clock.load + 1)
        paced.charge(work)
    return clock.now - begin


def test_a_share_where_the_model_uses_all(clock: Clock) -> None:
    paced = Pace(lambda: True)
    clock.load = 2.0
    clock.sleep(1.0)
    assert refine(clock, paced, 0.01, 101) == pytest.approx(1.0 / SHARE, rel=0.15)


@pytest.mark.parametrize(("load", "used"), [(1.0, True), (2.0, False)])
def test_no_wait_where_a_processor_is_idle_or_nobody_calls(
    clock: Clock, load: float, used: bool
) -> None:
    paced = Pace(lambda: used)
    clock.load = load
    clock.sleep(1.0)
    assert refine(clock, paced, 0.01, 100) == pytest.approx(1.0)


def test_a_model_that_rests_ends_the_wait(clock: Clock) -> None:
    calls = [True, True, False]
    paced = Pace(lambda: calls.pop(0) if len(calls) > 1 else calls[0])
    clock.load = 2.0
    clock.sleep(1.0)
    paced.wait(Waits(clock))
    paced.charge(60.0)
    begin = clock.now
    paced.wait(Waits(clock))
    assert clock.now - begin < 1.0


def test_a_stop_ends_the_wait(clock: Clock) -> None:
    paced = Pace(lambda: True)
    clock.load = 2.0
    clock.sleep(1.0)
    paced.wait(Stop())
    paced.charge(60.0)
    stop = Waits(clock)
    stop.call()
    with pytest.raises(Cancelled):
        paced.wait(stop)


def test_a_gate_is_in_use_with_its_pins_and_a_little_longer() -> None:
    gate = Gate(5.0)
    assert not gate.in_use()
    with gate.pin(brief=True):
        assert gate.in_use()
    assert gate.in_use()


class Line:
    """A response whose bytes come in packets at a steady rate, bytes per second."""

    def __init__(self, clock: Clock, size: int, rate: float) -> None:
        self.headers = {"Content-Length": str(size)}
        self.reads = self.taken = 0
        self._clock, self._size, self._rate = clock, size, rate
        self._begin = clock.now

    def shutdown(self) -> None:
        raise AssertionError("nothing stalls here")

    def read1(self, most: int, decode_content: bool) -> bytes:
        self.reads += 1
        here = int((self._clock.now - self._begin) * self._rate) // 1448 * 1448
        if here <= self.taken:
            here = self.taken + 1448
            self._clock.now = max(self._clock.now, self._begin + here / self._rate)
        count = min(most, min(here, self._size) - self.taken)
        self.taken += count
        return bytes(count)


@pytest.mark.parametrize("rate", [3e6, 30e6])
def test_bytes_gather_before_they_are_read(clock: Clock, rate: float) -> None:
    size = 4 << 20
    line: Any = Line(clock, size, rate)
    begin = clock.now
    body = http.Body(line, Watchdog(), 30.0, "somewhere")
    while body.read(1 << 20):
        pass
    assert line.taken == size
    assert line.reads < size / 1448 / 10
    assert clock.now - begin < size / rate + 0.01  # and nobody waited for more than came
