"""Feeding errors back: the factor, codes in blocks of columns, and sums that stay exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layers import inputs, moments

from p2u.codec import core
from p2u.packing.rounding import calibration as cal
from p2u.packing.rounding import feedback
from p2u.packing.rounding.calibration import make_factor


def test_factor_predicts_like_a_regression() -> None:
    # Rows of C are what least squares would predict: damage by E H E^T and by sums of D f^2 agree.
    h = moments([inputs(40)])
    factor = make_factor(h.copy(), 1e-4)
    order = factor.order[0]
    c = np.eye(40)
    block = factor.block(0, 40)[0]
    for k in range(40):
        c[:, k] += block[k] * 2.0 ** factor.exponent[0, k]
    damped = h[0] + 1e-4 * h[0].diagonal().mean() * np.eye(40)
    inverse = np.linalg.inv(c)
    diagonal = inverse @ damped[np.ix_(order, order)] @ inverse.T
    assert (np.diff(h[0].diagonal()[order]) <= 0).all()
    off = diagonal - np.diag(diagonal.diagonal())
    scale = np.sqrt(np.outer(diagonal.diagonal(), diagonal.diagonal()))
    assert np.abs(off / scale).max() < 0.3  # 8-bit mantissas
    assert np.abs(off / scale).mean() < 0.05


def test_columns_in_blocks_are_as_one_by_one() -> None:
    factor = make_factor(moments([inputs(70), inputs(70, seed=3)]), 0.01)
    x = np.random.default_rng(0).standard_normal((2, 70, 33)) * 3
    steps = np.arange(70) % 12
    found = []
    for block in (1, 7, 70):
        found.append(feedback.fed_back(x.copy(), factor, steps, 0.2, block=block))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], feedback.own_bins(x))


def test_weights_outside_of_the_bins_leave_no_error() -> None:
    factor = make_factor(moments([inputs(20)]), 0.01)
    x = np.random.default_rng(0).standard_normal((1, 20, 9)) * 3
    first = factor.order[0, 0]
    steps = np.zeros(20, np.int64)
    x[0, first] = [0, 5, -5, 127, 127.5, 1e6, -128, 1e300, 0]
    codes = feedback.fed_back(x.copy(), factor, steps, 0)
    x[0, first] = 0
    others = np.arange(20) != first
    assert np.array_equal(codes[0, others], feedback.fed_back(x, factor, steps, 0)[0, others])


def test_sums_stay_exact_at_the_worst() -> None:
    worst = feedback.MOST_ERROR * feedback.ONE * 2**feedback.SPREAD * 127 * cal.MAX_COLUMNS
    assert worst <= 2**53


def test_own_bins_are_the_cores() -> None:
    rng = np.random.default_rng(5)
    w = np.concatenate([rng.standard_normal(4000) * 8, np.arange(-130, 130) / 2, [0.49999997]])
    w = w.astype(np.float32)
    segment = core.Segment(w.tobytes(), len(w), len(w))
    scales = np.zeros(1, np.int16).tobytes()
    codes = feedback.own_bins(w.astype(np.float64)).astype(np.int16).tobytes()
    plain = core.encode("F32", [segment], scales, [0])
    assert core.encode("F32", [segment], scales, [0], codes=codes).payloads == plain.payloads


@pytest.mark.parametrize(
    ("first", "count", "per_group", "expected"),
    [
        (0, 12, 4, [(0, 3, 0, 12)]),
        (3, 12, 4, [(0, 1, 0, 1), (1, 3, 1, 9), (3, 4, 9, 12)]),
        (5, 2, 4, [(1, 2, 0, 2)]),
        (0, 3, 1, [(0, 3, 0, 3)]),
    ],
)
def test_runs(first: int, count: int, per_group: int, expected: Any) -> None:
    found = list(feedback.runs(first, count, per_group))
    assert [(g.start, g.stop, c.start, c.stop) for g, c in found] == expected
