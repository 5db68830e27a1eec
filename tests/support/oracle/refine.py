"""Refinements, read as the text has them (SPEC.md 6.4 and 6.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oracle.floats import Flags, Format, Ints
from oracle.levels import CONTEXTS, Rows, bin_bits, signed_bin, steps
from oracle.patches import read_patches
from oracle.rans import Log, check_range, read_ints, read_stream
from oracle.wire import Malformed, Run, Source

EXACT, SHIFTED, SPARSE, COARSE = 1, 2, 4, 8
#: Halvings of one refinement, and from the base to any cells.
MOST_AT_ONCE, MOST = 8, 15
#: Contexts of coarse symbols; the last one is of known elements.
COARSE_CONTEXTS = 16

#: Numbers of an element on the wire, in the order in which they are needed.
FIELDS = ("shifts", "zeros", "positions", "octaves", "low", "upper")


@dataclass(frozen=True)
class Head:
    """Flags, and halvings of the base's step before and after."""

    flags: int
    start: int
    to: int

    @property
    def k(self) -> int:
        return self.to - self.start

    @property
    def plain(self) -> int:
        """Width of a field of the positions."""
        return self.k - 2 if self.has(COARSE) else self.k

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)

    def check(self, full: bool) -> None:
        if (
            self.flags > 15
            or not self.start <= self.to <= MOST
            or self.to < 1
            or self.k > MOST_AT_ONCE
            or (self.k == 0 and not self.has(EXACT))
            or (self.start > 0 and (self.has(SHIFTED) or self.has(COARSE) or full))
            or (self.has(COARSE) and self.k < 2)
        ):
            raise Malformed("impossible parameters of a refinement")


@dataclass(frozen=True)
class Refinement:
    """The steps of a refinement; step exponents and trailing zeros are given per element."""

    f: Format
    head: Head
    e: Ints
    tz: Ints

    @property
    def low_bits(self) -> int:
        """Bits that the low plane is for: the mantissa's below the seventh."""
        return self.f.mant - 7

    @property
    def low_width(self) -> Ints:
        return np.maximum(self.low_bits - self.tz, 0)

    @property
    def upper_zeros(self) -> Ints:
        """Trailing zeros that reach above the low plane."""
        return np.maximum(self.tz - self.low_bits, 0)

    def shift(self, bits: Ints, symbols: Ints) -> Ints:
        """Step 1: to the bins that so many others are between."""
        q, context = signed_bin(self.f, bits, self.e)
        by = np.where(symbols % 2 == 0, symbols // 2, -(symbols + 1) // 2)
        moves = (symbols != 0) & (context < CONTEXTS - 1)
        return np.where(moves, bin_bits(self.f, q + by, self.e), bits)

    def is_zero(self, bits: Ints) -> Flags:
        zero: Flags = bits % self.f.sign == 0
        return zero

    def list_zeros(self, bits: Ints, symbols: Ints) -> tuple[Ints, Flags]:
        """Step 2: the elements that are exactly zero, and that they are absent from here on."""
        absent = symbols > 0
        return np.where(absent, (symbols - 1) * self.f.sign, bits), absent

    def known(self, bits: Ints, absent: Flags) -> Flags:
        """Step 3."""
        known = absent | (steps(self.f, bits, self.e) >= 127.5)
        return known | self.is_zero(bits) if self.head.start else known

    def coarse_context(self, bits: Ints, known: Flags) -> Ints:
        q = signed_bin(self.f, bits, self.e)[0]
        return np.where(known, COARSE_CONTEXTS - 1, np.clip(q, -7, 7) + 7)

    def place(self, bits: Ints, known: Flags, positions: Ints) -> Ints:
        """Step 4, in binary32."""
        f = self.f
        value = np.where(known, 0.0, f.value(bits % f.sign)).astype(np.float32)
        signed = np.where(bits >= f.sign, -value, value)
        unit = np.ldexp(np.ones(len(bits), np.float32), (self.e - self.head.to - 1).astype("i4"))
        by = (2 * positions + 1 - (1 << self.head.k)).astype(np.float32) * unit
        y: npt.NDArray[np.float32] = signed + by
        assert y.dtype == np.float32
        return np.where(known, bits, f.floor(np.abs(y).astype(float)) + f.sign * (y < 0))

    def width(self, bits: Ints) -> Ints:
        """Step 5: bits of the upper mantissa that are open; 8 where the octave is, too."""
        u = bits % self.f.sign
        w = 7 + self.e - self.head.to + self.f.bias - np.maximum(u >> self.f.mant, 1)
        return np.where((u == 0) | (w > 8), 0, np.maximum(w, 0))

    def upper_width(self, bits: Ints) -> Ints:
        return np.maximum(np.minimum(self.width(bits), 7) - self.upper_zeros, 0)

    def finish(self, bits: Ints, absent: Flags, upper: Ints, low: Ints, octaves: Ints) -> Ints:
        """Step 5: everything that is open, filled in."""
        f = self.f
        u = bits % f.sign >> self.low_bits
        open_bits = np.maximum(np.minimum(self.width(bits), 7), self.upper_zeros)
        u = (u >> open_bits << open_bits) + (upper << self.upper_zeros)
        u = u - (np.where(self.width(bits) == 8, np.minimum(octaves, u >> 7), 0) << 7)
        u = (u << self.low_bits) + (low << self.tz)
        return np.where(absent, bits, u + (bits & f.sign))


def guesses(f: Format, rows: Rows, bits: Ints, start: int) -> list[int]:
    """Step exponents that the elements before suggest."""
    out = []
    for row in np.split(bits % f.sign, np.cumsum(rows.lengths)[:-1]):
        lowest = []
        for u in row[:8].tolist():
            if 0 < u < f.inf:
                fraction, field = u % (1 << f.mant), u >> f.mant
                number = fraction + (1 << f.mant if field else 0)
                zeros = (number & -number).bit_length() - 1
                lowest.append(max(field, 1) - f.bias - f.mant + zeros)
        out.append(min(lowest) + (start + 1 if start else 0) if lowest else 0)
    return out


def read_refinement(
    source: Source, f: Format, rows: Rows, bits: Ints, exponents: list[int] | None, log: Log
) -> Ints:
    """The elements refined; ``exponents`` are the base's in a full chunk."""
    head = Head(*source.take(3))
    head.check(exponents is not None)
    log.append(("head", head))
    n, count = len(bits), len(rows.lengths)
    if exponents is None:
        less = read_ints(source, count, log)
        exponents = [a + b for a, b in zip(guesses(f, rows, bits, head.start), less, strict=True)]
        check_range(exponents, f.e_min, f.e_max, "a step exponent")
    tz = [0] * count
    if head.has(EXACT):
        tz = read_ints(source, count, log)
        check_range(tz, 0, f.mant, "a number of trailing zeros")
        log.append(("trailing", tz))
    r = Refinement(f, head, np.array(exponents)[rows.row], np.array(tz)[rows.row])
    found: dict[str, Ints] = {name: np.zeros(n, np.int64) for name in FIELDS}

    if head.has(SHIFTED):
        context = signed_bin(f, bits, r.e)[1]
        found["shifts"][:] = read_stream(source, context.tolist(), CONTEXTS, log)
        bits = r.shift(bits, found["shifts"])
    absent = r.is_zero(bits) & head.has(SPARSE)
    if head.has(SPARSE) and head.start == 0:
        found["zeros"][absent] = _as_many(_counted(source, n, log), int(absent.sum()))
        check_range(found["zeros"].tolist(), 0, 2, "a symbol of a zero")
        bits, absent = r.list_zeros(bits, found["zeros"])
    known = r.known(bits, absent)
    if head.has(COARSE):
        context = r.coarse_context(bits, known)
        symbols = np.array(read_stream(source, context.tolist(), COARSE_CONTEXTS, log))
        found["positions"] = symbols % 4 << head.plain
    octaves = _counted(source, n, log) if head.has(EXACT) else []
    if head.k > 0:
        run = Run(source)
        for i in np.flatnonzero(~absent).tolist():
            found["positions"][i] += run.take(head.plain)
        run.end()
        bits = r.place(bits, known, found["positions"])
    if head.has(EXACT):
        deep = r.width(bits) == 8
        found["octaves"][deep] = _as_many(octaves, int(deep.sum()))
        if r.low_bits:
            found["low"] = _low_plane(source, rows, r.low_width, absent)
        run = Run(source)
        for i, width in enumerate(r.upper_width(bits).tolist()):
            found["upper"][i] = run.take(width)
        run.end()
        bits = r.finish(bits, absent, found["upper"], found["low"], found["octaves"])
    bits, patched = read_patches(source, f, bits)
    log += [*found.items(), ("patched", patched)]
    return bits


def _counted(source: Source, most: int, log: Log) -> list[int]:
    """Symbols of one context behind their number."""
    count = source.varint()
    if count > most:
        raise Malformed("more symbols than elements")
    return read_stream(source, [0] * count, 1, log) if count else []


def _as_many(symbols: list[int], count: int) -> list[int]:
    if len(symbols) != count:
        raise Malformed("symbols of other elements")
    return symbols


def _low_plane(source: Source, rows: Rows, widths: Any, absent: Flags) -> Ints:
    """A field for each element that is not absent."""
    out = np.zeros(len(absent), np.int64)
    run, before = Run(source), 0
    for i, width in enumerate(widths.tolist()):
        if width != before:
            run.align()
            before = width
        if not absent[i]:
            out[i] = run.take(width)
    run.end()
    return out
