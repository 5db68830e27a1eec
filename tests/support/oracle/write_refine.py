"""Refinements, written: a payload that leads from any previous bytes to any floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.floats import Flags, Format, Ints
from oracle.levels import CONTEXTS, KNOWN, Rows, nearest_bin, signed_bin, steps
from oracle.patches import write_patches
from oracle.rans import write_ints, write_stream
from oracle.refine import COARSE, COARSE_CONTEXTS, EXACT, SHIFTED, SPARSE, Head, Refinement, guesses
from oracle.wire import Bits, Sink

#: Takes the name of a field, its values and the elements of which they do not matter.
Fill = Callable[[str, Ints, Flags], Ints]


@dataclass
class Parts:
    """What is on the wire for each element, and which elements have it."""

    shifts: Ints
    shift_context: Ints
    listed: Flags
    zeros: Ints
    absent: Flags
    coarse_context: Ints
    positions: Ints
    finer_width: Ints
    finer: Ints
    deep: Flags
    octaves: Ints
    upper_width: Ints
    upper: Ints
    low: Ints
    #: The elements but for patches, and where they are as they should be.
    out: Ints
    right: Flags


def write_refinement(
    sink: Sink,
    f: Format,
    rows: Rows,
    target: Ints,
    state: Ints,
    exponents: list[int],
    head: Head,
    choices: Any,
    full: bool = False,
) -> Ints:
    """Write it from the flags on, and return the elements after it."""
    sink += bytes([head.flags, head.start, head.mid, head.to])
    if not full:
        guess = guesses(f, rows, state, head.start)
        write_ints(sink, [e - g for e, g in zip(exponents, guess, strict=True)], choices)
    tz = [0] * len(exponents)
    if head.has(EXACT):
        tz = choices.trailing(_trailing_zeros(f, rows, target))
        write_ints(sink, tz, choices)
    r = Refinement(f, head, np.array(exponents)[rows.row], np.array(tz)[rows.row])
    natural = _parts(r, target, state, lambda name, values, free: values)
    patched = choices.patched(~natural.right)
    parts = _parts(r, target, state, lambda n, v, free: choices.fill(n, v, free | patched))
    _write(sink, r, rows, parts, choices)
    write_patches(sink, f, target, patched)
    return np.where(patched, target, parts.out)


def _parts(r: Refinement, target: Ints, state: Ints, fill: Fill) -> Parts:
    f, head, bits = r.f, r.head, state
    none = np.zeros(len(bits), bool)
    zeros = r.is_zero(target)
    shifts, context = _shifts(r, target, bits)
    shifts = fill("shifts", shifts, context == KNOWN)
    if head.has(SHIFTED):
        bits = r.shift(bits, shifts)
    listed = absent = r.is_zero(bits) & head.has(SPARSE)
    flags = fill("zeros", np.where(listed & zeros, 1 + target // f.sign, 0), none)
    if head.start == 0:
        flags = np.where(listed, flags, 0)
        bits, absent = r.list_zeros(bits, flags)
    still = absent | r.is_large(bits)
    positions = np.where(still, 0, _positions(r, target, bits, 0, head.mid))
    positions = fill("positions", positions, still) % (1 << head.mid)
    coarse_context = r.coarse_context(bits, absent)
    if head.start == 0:
        bits = r.place(bits, absent, positions)
    finer_width = r.finer_width(bits)
    finer = _positions(r, target, bits, head.mid, finer_width)
    finer = fill("finer", finer, none) % (1 << finer_width)
    if head.to > head.mid:
        bits = r.place_finer(bits, finer)
    deep = r.width(bits) == 8
    u, v = target % f.sign, bits % f.sign
    octaves = fill("octaves", np.clip((v >> f.mant) - (u >> f.mant), 0, 255), none)
    low = fill("low", u >> r.tz, none) % (1 << r.low_width)
    width = r.upper_width(bits)
    upper = fill("upper", u >> r.low_bits >> r.upper_zeros, none) % (1 << width)
    if head.has(EXACT):
        bits = r.finish(bits, absent, upper, low, octaves)
        right = bits == target
    else:
        right = (bits == target) | (_same_cell(r, target, bits) & ~absent)
    return Parts(
        shifts, context, listed, flags, absent, coarse_context, positions, finer_width, finer,
        deep, octaves, width, upper, low, bits, right,
    )  # fmt: skip


def _trailing_zeros(f: Format, rows: Rows, bits: Ints) -> list[int]:
    """Low zero bits that all finite weights of a row share."""
    out = []
    for part in np.split(bits & (f.sign - 1), np.cumsum(rows.lengths)[:-1]):
        low = int(np.bitwise_or.reduce(np.where(part < f.inf, part, 0)))
        out.append(min((low & -low).bit_length() - 1, f.mant) if low else f.mant)
    return out


def _shifts(r: Refinement, target: Ints, bits: Ints) -> tuple[Ints, Ints]:
    """Symbols that lead to the own bins, 0 where there is none; and their contexts."""
    q, context = signed_bin(r.f, bits, r.e)
    own = nearest_bin(steps(r.f, target, r.e))
    by = np.where(target >= r.f.sign, -own, own) - q
    fits = (context != KNOWN) & (own >= 0) & (by >= -128) & (by <= 127)
    return np.where(fits, np.where(by < 0, -2 * by - 1, 2 * by), 0), context


def _cell(r: Refinement, bits: Ints, exponent: Ints) -> Ints:
    """Numbers of cells of this exponent, of magnitudes."""
    return np.floor(np.minimum(steps(r.f, bits, exponent), 2.0**40)).astype(np.int64)


def _positions(r: Refinement, target: Ints, bits: Ints, halved: int, by: int | Ints) -> Ints:
    """Where the targets are in the elements' bins or cells, counted from the most negative end."""
    cells = np.left_shift(1, by)
    if halved:
        first = _cell(r, bits, r.e - halved) * cells
    else:
        first = _cell(r, bits, r.e - by) - cells // 2
    position = _cell(r, target, r.e - halved - by) - first
    position = np.where(target >= r.f.sign, cells - 1 - position, position)
    return np.clip(position, 0, cells - 1)


def _same_cell(r: Refinement, target: Ints, bits: Ints) -> Flags:
    """Whether the floats stand for the targets, and go on to do so."""
    f, head = r.f, r.head
    octave = np.maximum(target % f.sign >> f.mant, 1) - f.bias
    exponent = np.maximum(r.e - head.to, octave - 7)
    if head.start == 0:
        exponent = np.minimum(exponent, r.e - head.mid)
    sign = (target >= f.sign) == (bits >= f.sign)
    same: Flags = sign & (_cell(r, target, exponent) == _cell(r, bits, exponent))
    return same & ~r.is_large(bits) & ~r.is_zero(target) & ~r.is_zero(bits)


def _write(sink: Sink, r: Refinement, rows: Rows, parts: Parts, choices: Any) -> None:
    """All pieces between the trailing zeros and the patches."""
    head = r.head
    if head.has(SHIFTED):
        context = parts.shift_context.tolist()
        write_stream(sink, parts.shifts.tolist(), context, CONTEXTS, choices)
    if head.has(SPARSE) and head.start == 0:
        _write_counted(sink, parts.zeros[parts.listed].tolist(), choices)
    if head.has(COARSE):
        symbols = (parts.positions >> head.plain).tolist()
        write_stream(sink, symbols, parts.coarse_context.tolist(), COARSE_CONTEXTS, choices)
    if head.has(EXACT):
        _write_counted(sink, parts.octaves[parts.deep].tolist(), choices)
    if head.start == 0:
        _write_fields(sink, parts.positions, np.where(parts.absent, 0, head.plain))
    if head.to > head.mid:
        _write_fields(sink, parts.finer, parts.finer_width)
    if head.has(EXACT):
        if r.low_bits:
            sink.run(_low_plane(r.low_width.tolist(), parts))
        _write_fields(sink, parts.upper, parts.upper_width)


def _write_fields(sink: Sink, fields: Ints, widths: Ints) -> None:
    bits = Bits()
    for field, width in zip(fields.tolist(), widths.tolist(), strict=True):
        bits.put(field % (1 << width), width)
    sink.run(bits)


def _write_counted(sink: Sink, symbols: list[int], choices: Any) -> None:
    sink.varint(len(symbols))
    if symbols:
        write_stream(sink, symbols, [0] * len(symbols), 1, choices)


def _low_plane(widths: list[int], parts: Parts) -> Bits:
    bits, before = Bits(), 0
    for field, width, absent in zip(parts.low.tolist(), widths, parts.absent, strict=True):
        if width != before:
            bits.align()
            before = width
        if not absent:
            bits.put(field, width)
    return bits
