"""Intervals and tests: against brute force, and what must hold of any items."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import UsageError
from p2u_lab.stats import difference, interval, mcnemar

items = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60)
rights = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(items, st.integers(0, 2**31))
def test_an_interval_holds_its_value_and_stays_in_range(values: list[float], seed: int) -> None:
    found = interval(np.array(values), seed=seed, resamples=400)
    assert found.value == pytest.approx(np.mean(values))
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12
    assert found == interval(np.array(values), seed=seed, resamples=400)


@given(items, st.integers(1, 9))
def test_only_the_relation_of_weights_counts(values: list[float], factor: int) -> None:
    weights = np.arange(1, len(values) + 1, dtype=np.float64)
    a = interval(np.array(values), weights, resamples=200)
    b = interval(np.array(values), weights * factor, resamples=200)
    assert a.value == pytest.approx(b.value)
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


def test_it_is_the_bootstrap_of_drawn_items() -> None:
    rng = np.random.default_rng(3)
    values, weights = rng.random(80), rng.integers(1, 6, 80).astype(float)
    drawn = rng.integers(0, 80, (10_000, 80))
    means = (values * weights)[drawn].sum(1) / weights[drawn].sum(1)
    found = interval(values, weights)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for seed in range(300):
        sample = (rng.random(400) < 0.8).astype(float)
        found = interval(sample, seed=seed, resamples=500)
        hits += found.low <= 0.8 <= found.high
    assert 0.90 < hits / 300 < 0.99


@given(rights)
def test_a_difference_counts_both_ways(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    found, back = difference(a, b), difference(b, a)
    assert found.interval.value == pytest.approx(a.mean() - b.mean())
    assert (found.lost, found.gained) == (back.gained, back.lost)
    assert found.p == back.p
    assert found.gained - found.lost == round((a - b).sum())


def test_equal_answers_differ_by_nothing() -> None:
    a = np.array([1.0, 0, 1, 1])
    found = difference(a, a)
    assert (found.interval.low, found.interval.high, found.p) == (0, 0, 1)
    assert found.interval.has_zero


def test_pairing_finds_what_means_alone_do_not() -> None:
    rng = np.random.default_rng(0)
    original = (rng.random(2000) < 0.8).astype(float)
    worse = original.copy()
    worse[np.flatnonzero(original)[:30]] = 0
    found = difference(worse, original)
    assert not found.interval.has_zero
    assert found.p is not None
    assert found.p < 1e-6
    # Alone, their intervals overlap.
    assert interval(worse).high > interval(original).low


def test_scores_in_between_have_no_mcnemar() -> None:
    found = difference(np.array([0.5, 1]), np.array([1.0, 1]))
    assert (found.lost, found.gained, found.p) == (None, None, None)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    n, few = lost + gained, min(lost, gained)
    tail = sum(Fraction(comb(n, k), 2**n) for k in range(few + 1))
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, float(2 * tail)), rel=1e-12)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_mcnemar_of_many() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5000, 5000) == 1
    assert 0 <= mcnemar(100, 9000) < 1e-300
    assert mcnemar(2, 9) == pytest.approx(0.065429688)


@pytest.mark.parametrize(
    ("values", "weights"),
    [([], None), ([np.nan], None), ([1.0], [0.0]), ([1.0], [-1.0]), ([1.0, 2.0], [1.0])],
)
def test_what_is_no_sample_is_refused(values: list[float], weights: list[float] | None) -> None:
    with pytest.raises(UsageError):
        interval(np.array(values), None if weights is None else np.array(weights))


def test_other_items_are_refused() -> None:
    with pytest.raises(UsageError, match="same items"):
        difference(np.ones(3), np.ones(4))
