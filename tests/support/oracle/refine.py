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
#: Halvings by positions, by finer positions, and from the base to any cells.
MOST_FIRST, MOST_FINER, MOST = 8, 7, 15
#: Contexts of coarse symbols; the last one is of elements that have no position.
COARSE_CONTEXTS = 16
#: Numbers of an element on the wire, in the order in which they are needed.
FIELDS = ("shifts", "zeros", "positions", "finer", "octaves", "low", "upper")

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """Flags, and halvings of the base's step: before, after positions, after finer ones."""

    flags: int
    start: int
    mid: int
    to: int

    @property
    def plain(self) -> int:
        """Width of a field of the positions."""
        return self.mid - 2 if self.has(COARSE) else self.mid

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)

    def check(self, full: bool) -> None:
        cells = self.start > 0
        if (
            self.flags > 15
            or (self.mid != self.start if cells else not 1 <= self.mid <= MOST_FIRST)
            or not self.mid <= self.to <= min(self.mid + MOST_FINER, MOST)
            or (self.to == self.start and not self.has(EXACT))
            or (cells and (self.has(SHIFTED) or self.has(COARSE) or full))
            or (self.has(COARSE) and self.mid < 2)
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

    def is_large(self, bits: Ints) -> Flags:
        large: Flags = steps(self.f, bits, self.e) >= 127.5
        return large

    def coarse_context(self, bits: Ints, absent: Flags) -> Ints:
        q = signed_bin(self.f, bits, self.e)[0]
        none = absent | self.is_large(bits)
        return np.where(none, COARSE_CONTEXTS - 1, np.clip(q, -7, 7) + 7)

    def place(self, bits: Ints, absent: Flags, positions: Ints) -> Ints:
        """Step 3: from bins to cells."""
        by = 2 * positions + 1 - (1 << self.head.mid)
        return np.where(absent, bits, self._moved(bits, by.astype(np.float32)))

    def finer_width(self, bits: Ints) -> Ints:
        return np.minimum(self.open_bits(bits, self.head.mid), self.head.to - self.head.mid)

    def place_finer(self, bits: Ints, fields: Ints) -> Ints:
        """Step 4: from cells to cells."""
        n = self.finer_width(bits)
        by = np.ldexp((2 * fields + 1).astype(np.float32), -n.astype("i4")) - np.float32(1)
        return np.where(n > 0, self._moved(bits, by), bits)

    def _moved(self, bits: Ints, by: Singles) -> Ints:
        """Elements that are not large, by so many halves of the cells, in binary32."""
        f, large = self.f, self.is_large(bits)
        value = np.where(large, 0.0, f.value(bits % f.sign)).astype(np.float32)
        half = np.ldexp(np.ones(len(bits), np.float32), (self.e - self.head.mid - 1).astype("i4"))
        y: Singles = np.where(bits >= f.sign, -value, value) + by * half
        assert y.dtype == np.float32
        moved = f.floor(np.abs(y).astype(float)) + f.sign * (y < 0)
        return np.where(large, bits, moved)

    def open_bits(self, bits: Ints, halvings: int) -> Ints:
        """Bits of the upper mantissa, and maybe more, that cells of so many halvings leave."""
        u = bits % self.f.sign
        w = 7 + self.e - halvings + self.f.bias - np.maximum(u >> self.f.mant, 1)
        return np.where((u == 0) | self.is_large(bits), 0, np.maximum(w, 0))

    def width(self, bits: Ints) -> Ints:
        """Step 5: bits of the upper mantissa that are open; 8 where the octave is, too."""
        w = self.open_bits(bits, self.head.to)
        return np.where(w > 8, 0, w)

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
        for u in row[: 32 if start > 6 else 8].tolist():
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
    head = Head(*source.take(4))
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
    if head.has(COARSE):
        context = r.coarse_context(bits, absent)
        symbols = np.array(read_stream(source, context.tolist(), COARSE_CONTEXTS, log))
        found["positions"] = symbols % 4 << head.plain
    octaves = _counted(source, n, log) if head.has(EXACT) else []
    if head.start == 0:
        found["positions"] += _fields(source, np.where(absent, 0, head.plain))
        bits = r.place(bits, absent, found["positions"])
    if head.to > head.mid:
        found["finer"] = _fields(source, r.finer_width(bits))
        bits = r.place_finer(bits, found["finer"])
    if head.has(EXACT):
        deep = r.width(bits) == 8
        found["octaves"][deep] = _as_many(octaves, int(deep.sum()))
        if r.low_bits:
            found["low"] = _low_plane(source, rows, r.low_width, absent)
        found["upper"] = _fields(source, r.upper_width(bits))
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


def _fields(source: Source, widths: Ints) -> Ints:
    """Bit fields of all elements, without gaps."""
    run = Run(source)
    out = np.array([run.take(width) for width in widths.tolist()], np.int64)
    run.end()
    return out


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
