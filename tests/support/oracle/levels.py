"""Rows, and the bins of their elements (SPEC.md 6.3 and 6.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oracle.floats import Floats, Format, Ints

#: Context of an element that is outside of the bins.
KNOWN = 13
CONTEXTS = 14


@dataclass(frozen=True)
class Rows:
    """Where rows lie: their lengths, and for every element its row, segment and column."""

    lengths: list[int]
    row: Ints
    segment: Ints
    column: Ints

    @staticmethod
    def of(shapes: list[tuple[int, int]]) -> Rows:
        """Rows of segments of ``(elems, cols)``."""
        lengths, segment, column = [], [], []
        for number, (elems, cols) in enumerate(shapes):
            lengths += [min(cols, elems - at) for at in range(0, elems, cols)]
            segment += [number] * elems
            column += [i % cols for i in range(elems)]
        row = np.repeat(np.arange(len(lengths)), lengths)
        return Rows(lengths, row, np.array(segment), np.array(column))


def steps(f: Format, bits: Ints, e: Ints) -> Floats:
    """Magnitudes in units of ``2**e``; infinite for infinities and NaNs."""
    return np.ldexp(f.value(bits & (f.sign - 1)), -e)


def nearest_bin(a: Floats) -> Ints:
    """Bin of a magnitude in steps; halves go up. -1 outside of the bins."""
    inside = a < 127.5
    a = np.where(inside, a, 0.0)
    q = np.floor(a)
    return np.where(inside, q + (a - q >= 0.5), -1).astype(np.int64)


def signed_bin(f: Format, bits: Ints, e: Ints) -> tuple[Ints, Ints]:
    """Bins with the floats' signs, 0 outside of the bins; and the contexts of shifts."""
    q = nearest_bin(steps(f, bits, e))
    # 0 to 8 are themselves; 9, 10, 11, 12 are the bins below 16, 32, 64, and the rest.
    context = np.minimum(q, 8) + (q > 8) + (q > 15) + (q > 31) + (q > 63)
    signed = np.maximum(q, 0) * np.where(bits >= f.sign, -1, 1)
    return signed, np.where(q < 0, KNOWN, context)


def bin_bits(f: Format, q: Ints, e: Ints) -> Ints:
    """The float that stands for a signed bin."""
    return f.floor(np.ldexp(np.abs(q).astype(float), e)) + np.where(q < 0, f.sign, 0)
