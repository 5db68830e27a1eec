"""Steps of the tensors: their shares, and the finest level within the bits."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from p2u.packing.allocation.shares import (
    COARSEST,
    FINE,
    FINEST,
    Shares,
    coarsest,
    estimate_level,
    find_level,
    finest,
    log2_64,
)


@given(st.floats(1e-300, 1e300))
def test_logarithms_are_exact(value: float) -> None:
    found = log2_64(value)
    exact = Fraction(value) ** 64
    assert Fraction(2) ** found <= exact < Fraction(2) ** (found + 1)


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.none() | st.integers(-5000, 5000)), min_size=1),
    st.integers(-40000, 40000),
)
def test_shares(tensors: list[tuple[int, int | None]], level: int) -> None:
    sizes, damage = [n for n, _ in tensors], [d for _, d in tensors]
    cols = [8 + n % 200 for n in sizes]
    shares = Shares.of(sizes, cols, damage)
    mean = sum(n * s for n, s in zip(sizes, shares.shares, strict=True)) / sum(sizes)
    assert 0 <= mean < 1
    offsets = shares.offsets(level)
    least = [finest(n) for n in cols]
    assert all(low <= offset <= COARSEST for low, offset in zip(least, offsets, strict=True))
    coarser = shares.offsets(level + FINE)
    assert all(
        b == min(a + 1, COARSEST) or a == low
        for low, a, b in zip(least, offsets, coarser, strict=True)
    )


def test_shares_are_those_of_nearly_equal_slopes() -> None:
    # Four times as many weights: 3/4 octave coarser. Four times the damage: half an octave finer.
    assert Shares.of([1000, 4000], [500, 500], [None, None]).shares == (-38, 10)
    first, second = Shares.of([1000, 1000], [500, 500], [0, 128]).shares
    assert first - second == 32
    # What is not known counts like the middle one.
    shares = Shares.of([500] * 4, [500] * 4, [-64, 0, 64, None]).shares
    assert shares[3] == shares[1]


@given(st.integers(50, 150), st.integers(-10000, 6000), st.integers(1, 40))
def test_the_finest_level_within_the_bits_is_found(slope: int, at: int, jump: int) -> None:
    weights = 1_000_000
    asked = []

    def measure(level: int) -> int:
        asked.append(level)
        return 3_500_000 - (level // jump * jump - at) * weights // (slope * FINE)

    found = find_level(measure, 3_500_000, weights)
    assert found is not None
    assert measure(found) <= 3_500_000
    assert len(asked) <= 18
    assert measure(found - jump - 250) > 3_500_000


def test_levels_out_of_reach() -> None:
    assert find_level(lambda _: 10, 9, 1) is None
    assert find_level(lambda at: 10 - (at == coarsest()), 9, 1) == coarsest()
    everything = find_level(lambda _: 1, 3, 1)
    assert everything is not None
    assert Shares((0, 50), (FINEST, FINEST)).offsets(everything) == [FINEST, FINEST]


@given(
    st.lists(
        st.tuples(st.integers(10**4, 10**7), st.integers(50, 150), st.integers(-30, 30)),
        min_size=1,
        max_size=12,
    ),
    st.integers(60, 600),
)
def test_an_estimate_needs_few_measurements(parts: list[tuple[int, int, int]], bits: int) -> None:
    """Each part has a slope of its own, and steps at levels of its own, by whole offsets."""
    weights = [n for n, _, _ in parts]
    most = sum(weights) * bits // 100
    asked = []

    def places(level: int) -> list[int]:
        return [(level + 9 * k) // FINE * FINE + own * FINE for k, (*_, own) in enumerate(parts)]

    def sizes(level: int) -> list[int]:
        asked.append(level)
        return true(level)

    def true(level: int) -> list[int]:
        at = places(level)
        return [
            n * 350 // 100 - n * (p + 61 * FINE) * slope // (6400 * FINE)
            for (n, slope, _), p in zip(parts, at, strict=True)
        ]

    found = estimate_level(sizes, places, weights, most)
    assert len(asked) <= 3
    # One offset of all parts is about a 64th of a bit.
    assert sum(true(found)) <= most + sum(weights) // 40
    assert sum(true(found - 2 * FINE)) > most - sum(weights) // 40


def test_an_estimate_out_of_reach_is_the_coarsest() -> None:
    found = estimate_level(lambda _: [10], lambda level: [level], [1], 9)
    assert found == coarsest()
