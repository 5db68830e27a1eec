"""A body's bytes are read in portions, not packet by packet."""

from __future__ import annotations

from typing import Any

import pytest

from p2u.stores import http
from p2u.stores.watchdog import Watchdog


class Clock:
    """Time that passes when somebody waits."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(http, "time", found)
    return found


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
    dog = Watchdog()
    body = http.Body(line, dog, 30.0, "somewhere")
    while body.read(1 << 20):
        pass
    assert line.taken == size
    assert line.reads < size / 1448 / 10
    assert clock.now - begin < size / rate + 0.01  # and nobody waited for more than came
    dog.end_all()  # its thread would outlive this test
