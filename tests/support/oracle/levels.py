"""What is known of a weight at a level, and what refining it says (SPEC.md 6.4 and 6.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oracle.floats import Flags, Floats, Format, Ints

#: Context of an element that is exact already.
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


@dataclass(frozen=True)
class Known:
    """Per element: the bits, the lower edge of the bin or cell in half steps, the context."""

    bits: Ints
    edge: Ints
    context: Ints


@dataclass(frozen=True)
class Refinement:
    """One refinement: what is fixed for the chunk, and per element the row's parameters."""

    f: Format
    from_cells: bool
    #: Halvings of the known step; 0 is exact.
    k: int
    sparse: bool
    raw_chunk: int
    zero_chunk: int
    #: Per element: step exponent of what is known, trailing zero bits.
    e: Ints
    tz: Ints

    @property
    def raw(self) -> Ints:
        """Width of the raw field."""
        return np.maximum(self.raw_chunk - self.tz, 0)

    @property
    def zero(self) -> Ints:
        """Width of what stands below the symbol in context 0."""
        return np.maximum(self.zero_chunk - self.tz, 0)

    def top(self) -> Ints:
        """Upper part of the largest float below the edge of the zero bin or cell."""
        edge = np.ldexp(1.0, self.e - (0 if self.from_cells else 1))
        return ((self.f.ceil(edge) - 1) >> self.tz) >> self.zero

    def first(self, known: Known) -> Ints:
        """Ordered integer, without the trailing zeros, of the first float of the bin or cell."""
        edge = np.ldexp(np.maximum(known.edge, 0).astype(float), self.e - 1)
        return (self.f.ceil(edge) + (1 << self.tz) - 1) >> self.tz

    def listed_zero(self, known: Known, symbol: Ints) -> Flags:
        """Whether the symbol says +0 or -0."""
        out: Flags = (known.context == 0) & (symbol < 2) & (not self.from_cells)
        return out

    def has_field(self, known: Known, symbol: Ints) -> Flags:
        nothing = (known.context == KNOWN) | self.listed_zero(known, symbol)
        out: Flags = ~(nothing & self.sparse)
        return out

    def has_upper(self, known: Known, symbol: Ints) -> Flags:
        near: Flags = (known.context == 0) & ~self.listed_zero(known, symbol)
        return near & (self.zero > self.raw)


def bin_context(q: Ints) -> Ints:
    """0 to 8 are themselves; 9, 10, 11, 12 are the bins below 16, 32, 64, and the rest."""
    return np.minimum(q, 8) + (q > 8) + (q > 15) + (q > 31) + (q > 63)


def steps(f: Format, bits: Ints, e: Ints) -> Floats:
    """Magnitudes in steps; infinite for infinities and NaNs."""
    return np.ldexp(f.value(bits & (f.sign - 1)), -e)


def nearest_bin(a: Floats) -> Ints:
    """Bin of a magnitude in steps; halves go up. -1 outside of the bins."""
    inside = a < 127.5
    a = np.where(inside, a, 0.0)
    q = np.floor(a)
    return np.where(inside, q + (a - q >= 0.5), -1).astype(np.int64)


def bin_bits(f: Format, q: Ints, e: Ints) -> Ints:
    """The float that stands for a signed bin."""
    return f.floor(np.ldexp(np.abs(q).astype(float), e)) + np.where(q < 0, f.sign, 0)


def know_bins(f: Format, bits: Ints, e: Ints) -> Known:
    q = nearest_bin(steps(f, bits, e))
    context = np.where(q < 0, KNOWN, bin_context(q))
    return Known(bits, 2 * np.maximum(q, 0) - 1, context)


def know_cells(f: Format, bits: Ints, e: Ints) -> Known:
    a = steps(f, bits, e)
    is_open = (bits & (f.sign - 1) != 0) & (a < 2**23)
    a = np.where(is_open, a, 0.0)
    # Octave 0 is below 1, octave i is from 2**(i - 1) on.
    octave = np.clip(np.frexp(a)[1], 0, 12)
    return Known(bits, 2 * np.floor(a).astype(np.int64), np.where(is_open, octave, KNOWN))


def move_bins(f: Format, known: Known, by: Ints) -> Known:
    """Elements whose own bin lies ``by`` bins beside their base code."""
    moves = (by != 0) & (known.context != KNOWN)
    magnitude = (known.edge + 1) // 2
    q = np.where(known.bits >= f.sign, -magnitude, magnitude) + by
    bits = (known.bits & (f.sign - 1)) | np.where(q < 0, f.sign, 0)
    return Known(
        np.where(moves, bits, known.bits),
        np.where(moves, 2 * np.abs(q) - 1, known.edge),
        np.where(moves, bin_context(np.abs(q)), known.context),
    )


def combine(r: Refinement, known: Known, symbol: Ints, below: Ints) -> Ints:
    """The refined floats' bits from symbols and what stands below them."""
    f = r.f
    pair = symbol if r.from_cells else np.maximum(symbol - 2, 0) >> 1
    if r.k == 0:
        inside = r.first(known) + (symbol << r.raw) + below
        near = ((r.top() - pair) << r.zero) + below
        u = (np.where(known.context == 0, near, inside) << r.tz) % f.sign
    else:
        inside = (known.edge << (r.k - 1)) + (symbol << r.raw) + below
        near = (pair << r.raw) + below
        cell = np.where((known.context == 0) & (not r.from_cells), near, inside) % 2**23
        u = f.floor(np.ldexp((2 * cell + 1).astype(float), r.e - r.k - 1))
        u = u % f.sign
    u = np.where(r.listed_zero(known, symbol), 0, u)
    signed = (known.context == 0) & (not r.from_cells)
    sign = np.where(signed, symbol % 2 * f.sign, known.bits & f.sign)
    return np.where(known.context == KNOWN, known.bits, u | sign)


def split(r: Refinement, known: Known, bits: Ints) -> tuple[Ints, Ints]:
    """Symbols of the weights ``bits`` and what stands below; symbol -1 where there is none."""
    f = r.f
    u, sign = bits & (f.sign - 1), bits // f.sign
    near = known.context == 0
    listed = near & (not r.from_cells)
    if r.k == 0:
        upper = u >> r.tz
        fields = np.where(near, r.zero, r.raw)
        distance = np.where(near, upper, upper - r.first(known))
        symbol = distance >> fields
        symbol = np.where(near, r.top() - symbol, symbol)
    else:
        cell = np.floor(np.minimum(steps(f, bits, r.e - r.k), 2.0**24)).astype(np.int64)
        distance = np.where(listed, cell, cell - (known.edge << (r.k - 1)))
        fields = r.raw
        symbol = np.where(cell < 2**23, distance >> fields, -1)
    below = distance & ((1 << fields) - 1)
    symbol = np.where(listed & (symbol >= 0), 2 + 2 * symbol + sign, symbol)
    symbol = np.where(listed & (u == 0), sign, symbol)
    below = np.where(listed & (u == 0), 0, below)
    wrong_side = ~listed & (bits // f.sign != known.bits // f.sign)
    impossible = (symbol < 0) | (symbol > 255) | wrong_side
    known_already = known.context == KNOWN
    out = np.where(known_already, 0, np.where(impossible, -1, symbol)).astype(np.int64)
    return out, np.where(known_already | impossible, 0, below).astype(np.int64)
