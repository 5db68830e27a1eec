"""Choose codes by error feedback: errors cancel at a layer's output, by its calibration.

The mathematics is in `p2u.packing.rounding.calibration`. Here is integer arithmetic only, so that
every machine and every number of threads comes to the same codes: weights and errors are whole
numbers of `ONE` parts of a step, the factor's mantissas are 8 bits, and sums of their products stay
far below 2^53, where float64 is exact in whatever order a BLAS adds them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from p2u.packing.rounding.calibration import Factor

Floats = NDArray[np.float64]

#: Parts of a step.
ONE = 1 << 16
#: Bins, as the format has them; weights of `OUTSIDE` steps and more travel exactly.
LAST, OUTSIDE = 127, 127.5
#: Most steps of error, and of fed-back value, that are counted.
MOST_ERROR, MOST_VALUE = 8, 1 << 14
#: Columns whose predecessors are added up in one matrix product.
BLOCK = 32
#: Most octaves between the steps along one input.
SPREAD = 8


def own_bins(x: Floats) -> Floats:
    """Each weight's own bin, as the core rounds.

    Args:
        x: Weights in steps.
    """
    # Weights outside of the bins are carried exactly; theirs only has to be a small number.
    return np.copysign(np.minimum(np.floor(np.abs(x) + 0.5), LAST), x)


def power_of_two(exponent: NDArray[np.int64]) -> Floats:
    """``2^exponent``: a product with it is exact."""
    return np.ldexp(1.0, exponent.astype(np.int32))


def fed_back(
    x: Floats,
    factor: Factor,
    relative: NDArray[np.int64],
    thrift: float,
    *,
    block: int = BLOCK,
) -> Floats:
    """Base codes with error feedback.

    Args:
        x: Weights in steps, finite: ``(groups, columns, n)``. Overwritten.
        factor: Of their input.
        relative: Exponent of the step of each column, in the weights' order.
        thrift: A weight leaves its own bin only when the fed-back value lies more than this part of
            a step beyond the bin's edge.
        block: Columns whose errors are passed on together; the codes do not depend on it.

    Returns:
        Codes, shaped as ``x``.
    """
    order = factor.order[:, :, None]
    x = np.take_along_axis(x, np.broadcast_to(order, (len(order), *x.shape[1:])), axis=1)
    # Errors are added up in parts of the least step, or of one not too far below the largest.
    relative = (relative - max(relative.min(), relative.max() - SPREAD))[factor.order, None]
    out_of, into = power_of_two(relative), power_of_two(factor.exponent[:, :, None] - relative)
    codes = np.empty_like(x)
    error = np.zeros_like(x)
    for start in range(0, factor.columns, block):
        stop = min(start + block, factor.columns)
        mantissa = factor.block(start, stop)
        before = np.matmul(mantissa[:, :, :start], error[:, :start])
        for k in range(start, stop):
            within = np.matmul(mantissa[:, k - start, None, start:k], error[:, start:k])
            fed = np.rint((before[:, k - start] + within[:, 0]) * into[:, k])
            codes[:, k], off = _round(x[:, k], fed, round(thrift * ONE))
            error[:, k] = np.rint(off * out_of[:, k])
    np.put_along_axis(x, np.broadcast_to(order, (len(order), *x.shape[1:])), codes, axis=1)
    return x


def _round(x: Floats, fed: Floats, thrift: int) -> tuple[Floats, Floats]:
    """Codes of one column, and what is wrong with them, in parts of a step."""
    fixed = np.rint(x * ONE)
    value = np.clip(fixed + fed, -MOST_VALUE * ONE, MOST_VALUE * ONE)
    codes = np.copysign(np.floor((np.abs(value) + ONE // 2) / ONE), value)
    own = own_bins(x)
    stay = np.abs(value - own * ONE) <= ONE // 2 + thrift
    # Zero stays zero: somebody pruned it.
    codes = np.where(stay | (x == 0), own, np.clip(codes, -LAST, LAST))
    outside = np.abs(x) >= OUTSIDE
    off = np.where(outside, 0, fixed - codes * ONE)
    return codes, np.clip(off, -MOST_ERROR * ONE, MOST_ERROR * ONE)


def runs(first: int, count: int, per_group: int) -> Iterator[tuple[slice, slice]]:
    """Channels ``first`` to ``first + count`` cut where groups begin or end within.

    Yields:
        Groups, and channels counted from ``first``: as many whole groups as there are at a time.
    """
    at, stop = first, first + count
    while at < stop:
        group = at // per_group
        if at % per_group or stop - at < per_group:
            end = min(stop, (group + 1) * per_group)
        else:
            end = stop // per_group * per_group
        yield slice(group, -(-end // per_group)), slice(at - first, end - first)
        at = end
