"""Waits between failed tries."""

from __future__ import annotations

import pytest

from p2u.stores.backoff import MOST_ASKED, Backoff, Retry


def longest(low: float, high: float) -> float:
    return high


def test_waits_double_up_to_a_cap():
    backoff = Backoff(0.5, 30.0, uniform=longest)
    assert [backoff.delay(n) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay(1 << 20) == 30
    assert Backoff(1.0, float("inf"), uniform=longest).delay(1 << 20) == 2.0**64


def test_at_most_half_is_cut():
    assert Backoff(4.0, 4.0, uniform=lambda low, high: low).delay(1) == 2
    assert all(2 <= Backoff(4.0, 4.0).delay(1) <= 4 for _ in range(100))


@pytest.mark.parametrize(("asked", "waited"), [(None, 1), (0.2, 1), (7.0, 7), (1e12, MOST_ASKED)])
def test_a_server_may_ask_for_more(asked, waited):
    assert Backoff(1.0, uniform=longest).delay(1, asked) == waited


def test_retry_is_a_backoff_with_an_end():
    retry = Retry(base=1.0, cap=2.0, attempts=3, uniform=longest)
    assert (retry.attempts, retry.delay(5)) == (3, 2)
    assert Retry() == Retry(uniform=longest)


def test_a_caller_may_have_less_patience():
    assert Backoff(1.0, most_asked=5.0, uniform=longest).delay(1, 60.0) == 5
