"""Rates: how they are written, that they are kept to, and that waiting ends when cancelled."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_contract import BLOB, OBJECTS, objects
from store_kit import CountingStore

from p2u.errors import Cancelled, UsageError
from p2u.stores import LocalStore, RateLimiter, ThrottledStore, parse_rate

__all__ = ["objects"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2MB/s", 2e6),
        ("2mB", 2e6),
        ("2 MB/s", 2e6),
        ("16Mbit/s", 2e6),
        ("16 mbits/s", 2e6),
        ("16Mbps", 2e6),
        ("8bit/s", 1.0),
        ("500k", 5e5),
        ("500K/s", 5e5),
        ("1.5MiB/s", 1.5 * 2**20),
        ("1KiB/sec", 1024),
        ("1Gi", 2**30),
        (".5G", 5e8),
        ("4096", 4096),
        ("100 bytes/s", 100),
        (" 1T ", 1e12),
    ],
)
def test_parse_rate(text: str, expected: float) -> None:
    assert parse_rate(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0MB/s", "-1M", "fast", "2Mb/s", "2mb", "MB/s", "1e6", "1,5M", "2MB/h", "1 0"),
        *("nan", "inf", "9" * 400 + "G", "1kk", "2M B / s", "1i", "٣M"),
    ],
)
def test_not_a_rate(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rate(text)
    assert "Mbit/s" in str(caught.value)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_limiter_needs_a_positive_rate(rate: float) -> None:
    with pytest.raises(UsageError):
        RateLimiter(rate)


@pytest.mark.parametrize("threads", [1, 8])
def test_the_rate_holds_over_all_threads(threads: int) -> None:
    limiter = RateLimiter(1e6)
    cpu = time.process_time()
    begun = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(limiter.acquire, [320_000 // threads] * threads))
    seconds = time.monotonic() - begun
    assert 0.27 <= seconds < 1.3  # never faster; slower only as much as a busy machine is
    assert time.process_time() - cpu < 0.2  # it sleeps


def test_threads_take_turns() -> None:
    """One that wants little does not wait for another that wants much."""
    limiter = RateLimiter(1e6)

    def want_much() -> None:
        with contextlib.suppress(Cancelled):
            limiter.acquire(10_000_000)

    thread = threading.Thread(target=want_much)
    thread.start()
    time.sleep(0.02)
    begun = time.monotonic()
    limiter.acquire(1000)
    assert time.monotonic() - begun < 2
    limiter.cancel()
    thread.join()


def test_idle_time_is_not_saved_up() -> None:
    limiter = RateLimiter(1e6)
    time.sleep(0.3)
    begun = time.monotonic()
    limiter.acquire(250_000)
    assert time.monotonic() - begun >= 0.19


def test_cancel_wakes_everybody() -> None:
    limiter = RateLimiter(1.0)
    results: list[str] = []

    def run() -> None:
        try:
            limiter.acquire(1000)
        except Cancelled:
            results.append("cancelled")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    limiter.cancel()
    for thread in threads:
        thread.join(timeout=2)
    assert results == ["cancelled"] * 4
    with pytest.raises(Cancelled):
        limiter.acquire(1)


def test_throttled_store(objects: Path) -> None:
    data = OBJECTS[BLOB]
    counting = CountingStore(LocalStore(objects))
    with ThrottledStore(counting, RateLimiter(len(data) / 0.4)) as store:
        begun = time.monotonic()
        sizes = []
        got = b""
        for piece in store.stream(BLOB, 0, len(data)):
            got += piece
            sizes.append(len(piece))
        assert got == data
        assert 0.34 <= time.monotonic() - begun < 1.5
        assert max(sizes) <= len(data) / 8 + 1  # in small steps, so that progress is smooth
        assert store.read("p2u.json", limit=100) == OBJECTS["p2u.json"]
        assert store.url == counting.url


def test_closing_a_throttled_stream_closes_the_one_behind_it(objects: Path) -> None:
    counting = CountingStore(LocalStore(objects))
    store = ThrottledStore(counting, RateLimiter(1e9))
    pieces = store.stream(BLOB, 0, len(OBJECTS[BLOB]))
    first = next(pieces)
    pieces.close()
    assert counting.ranges == [[BLOB, 0, len(OBJECTS[BLOB]), counting.taken]]
    assert len(first) <= counting.taken < len(OBJECTS[BLOB])
