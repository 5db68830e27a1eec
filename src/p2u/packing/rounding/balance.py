"""Balance the codes of convolutions: errors cancel within a filter, without any data.

The inputs of a filter are correlated: neighbouring pixels are alike, and rectified values are not
negative. So the *sum* of a filter's errors does more damage than the errors do one by one.
Where the sum over all that makes an output channel, or over the window of a small filter, is large,
the weights nearest to the edges of their bins go to the next bin until it is not (after SQuant, Guo
et al., ICLR 2022). All of it is integer arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from p2u.packing.rounding.feedback import LAST, ONE, OUTSIDE, Floats, own_bins

#: Only weights that are this far from their codes move, in parts of a step: others cost more.
LEAST = ONE // 4

#: Longest channel in which each window is balanced, too: in longer ones there are so many windows
#: that the exact model would grow by one to four per cent.
SHORT = 64

Ints = NDArray[np.int64]


def balanced(x: Floats, window: int, channel: int) -> Floats:
    """Base codes whose errors do not add up.

    Args:
        x: Weights in steps, finite: whole channels, flat.
        window: Weights of a filter that see neighbouring places of one input.
        channel: Weights of an output; a multiple of ``window``.

    Returns:
        Codes, shaped as ``x``.
    """
    codes = own_bins(x)
    # Zero stays zero: somebody pruned it. Weights outside of the bins are exact.
    fixed = (x == 0) | (np.abs(x) >= OUTSIDE)
    off = np.where(fixed, 0, np.rint(x * ONE) - codes * ONE).astype(np.int64)
    for size in (window, channel) if window < channel <= SHORT else (channel,):
        if size > 1:
            moved = _moves(off.reshape(-1, size)).reshape(-1)
            moved[np.abs(codes + moved) > LAST] = 0
            codes += moved
            off -= moved * ONE
    return codes


def _moves(off: Ints) -> Ints:
    """Steps by which codes go up or down, for each row of errors in parts of a step."""
    total = off.sum(1)
    up = np.sign(total)
    # Half of what the sum of so many even errors is on average (its standard deviation) may stay:
    # the other half would cost as much as the first and be worth far less.
    may = max(ONE // 2, math.isqrt(off.shape[1] * ONE * ONE // 48))
    many = np.maximum(np.abs(total) - may + ONE - 1, 0) // ONE
    moves = np.zeros_like(off)
    rows = np.flatnonzero(many)
    if not len(rows):
        return moves
    # No two keys are equal, so that every sorting finds the same: of equal ones the first.
    size = off.shape[1]
    keys = off[rows] * up[rows, None] * size + np.arange(size)[::-1]
    most = min(int(many.max()), size)
    order = np.argpartition(keys, size - most, axis=1)[:, size - most :]
    keys = np.take_along_axis(keys, order, 1)
    ranked = np.argsort(-keys, axis=1)
    order, keys = np.take_along_axis(order, ranked, 1), np.take_along_axis(keys, ranked, 1)
    chosen = (np.arange(most) < many[rows, None]) & (keys >= LEAST * size)
    picked = np.zeros((len(rows), size), np.int64)
    np.put_along_axis(picked, order, chosen.astype(np.int64), 1)
    moves[rows] = picked * up[rows, None]
    return moves
