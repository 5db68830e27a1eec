"""Weights to chunk payloads: a writer whose every choice is a `Choices`' (SPEC.md 6.3 to 6.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.decode import BASE, FROM_CELLS, FULL, OPAQUE, REFINE, SHIFTED, SPARSE, TO_CELLS
from oracle.floats import FORMATS, Flags, Format, Ints
from oracle.levels import (
    CONTEXTS,
    KNOWN,
    Known,
    Refinement,
    Rows,
    bin_bits,
    combine,
    know_bins,
    know_cells,
    move_bins,
    nearest_bin,
    split,
    steps,
)
from oracle.rans import PAIRED, PLAIN, write_ints, write_stream
from oracle.wire import Bits, Sink, unzigzag, zigzag


def encode_opaque(item: int, segments: Sequence[Any], choices: Any) -> bytes:
    """The payload of elements without levels."""
    data = np.frombuffer(b"".join(bytes(s.mem) for s in segments), np.uint8).reshape(-1, item)
    sink = Sink([OPAQUE, 0, item])
    sink.varint(len(data))
    for plane in data.T:
        mode = choices.plane(plane)
        sink.u8(mode)
        if mode == 0:
            sink.u8(int(plane[0]))
        elif mode == 1:
            sink += plane.tobytes()
        else:
            write_stream(sink, plane.tolist(), [0] * len(plane), [PLAIN], choices)
    return bytes(sink)


def encode(
    dtype: str,
    segments: Sequence[Any],
    scales: Sequence[int],
    levels: Sequence[int],
    choices: Sequence[Any],
    codes: Ints | None = None,
    full: bool = False,
) -> list[bytes]:
    """Payloads of a float chunk, base first; arguments as for ``p2u.codec.core.encode``.

    ``choices`` has a `Choices` or `Replay` for each payload.
    """
    f = FORMATS[dtype]
    rows = Rows.of([(s.elems, s.cols) for s in segments])
    bits = f.load(b"".join(bytes(s.mem) for s in segments))
    exponents = [s >> 2 for s in scales]
    sink = _header(FULL if full else BASE, f, rows)
    state = _base(sink, f, rows, segments, bits, scales, codes, choices[0])
    if full:
        _refine(sink, f, rows, bits, state, exponents, (False, 0), choices[0], full)
        return [bytes(sink)]
    payloads = [bytes(sink)]
    halved = 0
    for level, choice in zip(levels, choices[1:], strict=True):
        sink = _header(REFINE, f, rows)
        way = (halved > 0, level - halved if level else 0)
        state = _refine(sink, f, rows, bits, state, exponents, way, choice, full)
        payloads.append(bytes(sink))
        exponents = [e - way[1] for e in exponents]
        halved = level
    return payloads


def _header(kind: int, f: Format, rows: Rows) -> Sink:
    sink = Sink([kind, f.code])
    sink.u32(len(rows.lengths))
    sink.u32(len(rows.row))
    return sink


def _base(
    sink: Sink,
    f: Format,
    rows: Rows,
    segments: Sequence[Any],
    bits: Ints,
    scales: Sequence[int],
    codes: Ints | None,
    choices: Any,
) -> Ints:
    scale = np.array(scales)[rows.row]
    own = nearest_bin(steps(f, bits, scale >> 2))
    escaped = own < 0
    q = np.where(bits >= f.sign, -own, own)
    if codes is not None:
        q = np.clip(codes, -127, 127)
    write_ints(sink, scales, choices)
    columns = []
    for s in segments:
        classes = choices.columns(min(s.cols, s.elems))
        write_ints(sink, classes, choices)
        columns.append(classes)
    context = [
        4 * (c & 3) + columns[segment][column]
        for c, segment, column in zip(scale, rows.segment, rows.column, strict=True)
    ]
    symbols = np.where(escaped, 0, q + 128)
    write_stream(sink, symbols.tolist(), context, [PLAIN] * 16, choices)
    _patch(sink, f, bits, escaped)
    return np.where(escaped, bits, bin_bits(f, q, scale >> 2))


def _patch(sink: Sink, f: Format, bits: Ints, which: Flags) -> None:
    at = np.flatnonzero(which)
    sink.varint(len(at))
    for i, gap in zip(at, np.diff(at, prepend=-1) - 1, strict=True):
        sink.varint(int(gap))
        sink += int(bits[i]).to_bytes(f.size, "little")


def _refine(
    sink: Sink,
    f: Format,
    rows: Rows,
    bits: Ints,
    state: Ints,
    exponents: list[int],
    way: tuple[bool, int],
    choices: Any,
    full: bool,
) -> Ints:
    """Writes one refinement and returns the refined state; ``way`` is (from cells, halvings)."""
    from_cells, k = way
    e = np.array(exponents)[rows.row]
    known = (know_cells if from_cells else know_bins)(f, state, e)
    by = np.zeros_like(bits) if from_cells else _bins_beside(f, known, bits, e)
    shifted, sparse = choices.flags(bool(by.any()), not from_cells)
    raw, zero = choices.widths(f, k)
    flags = FROM_CELLS * from_cells + TO_CELLS * (k > 0) + SHIFTED * shifted + SPARSE * sparse
    sink += bytes([flags, raw, zero, k])
    if not full:
        write_ints(sink, exponents, choices)
    tz = [0] * len(exponents)
    if k == 0:
        tz = choices.zeros(_trailing_zeros(f, rows, bits))
        write_ints(sink, tz, choices)
    r = Refinement(f, from_cells, k, sparse, raw, zero, e, np.array(tz)[rows.row])
    if shifted:
        moves = [zigzag(int(d)) for d in by]
        write_stream(sink, moves, known.context.tolist(), [PLAIN] * CONTEXTS, choices)
        known = move_bins(f, known, np.array([unzigzag(s) for s in moves]))
    symbol, below = split(r, known, bits)
    patched = symbol < 0
    for i, what in zip(np.flatnonzero(patched), choices.patched(patched.sum()), strict=True):
        symbol[i], below[i] = what
    layouts = [PLAIN if from_cells else PAIRED] + [PLAIN] * (CONTEXTS - 1)
    write_stream(sink, symbol.tolist(), known.context.tolist(), layouts, choices)
    _fields(sink, rows, r, known, symbol, below)
    _patch(sink, f, bits, patched)
    return np.where(patched, bits, combine(r, known, symbol, below))


def _bins_beside(f: Format, known: Known, bits: Ints, e: Ints) -> Ints:
    """By how many bins the own bin lies beside the base code; 0 where it cannot be said."""
    own = nearest_bin(steps(f, bits, e))
    magnitude = (known.edge + 1) // 2
    base = np.where(known.bits >= f.sign, -magnitude, magnitude)
    by = np.where(bits >= f.sign, -own, own) - base
    fits = (known.context != KNOWN) & (own >= 0) & (by >= -128) & (by <= 127)
    return np.where(fits, by, 0)


def _trailing_zeros(f: Format, rows: Rows, bits: Ints) -> list[int]:
    """Low zero bits that all finite weights of a row share."""
    out = []
    for part in np.split(bits & (f.sign - 1), np.cumsum(rows.lengths)[:-1]):
        low = int(np.bitwise_or.reduce(np.where(part < f.inf, part, 0)))
        out.append(min((low & -low).bit_length() - 1, f.mant) if low else f.mant)
    return out


def _fields(sink: Sink, rows: Rows, r: Refinement, known: Known, symbol: Ints, below: Ints) -> None:
    raw = np.broadcast_to(r.raw, symbol.shape)
    fields, width = Bits(), 0
    for i, has in enumerate(r.has_field(known, symbol)):
        if raw[i] != width:
            fields.align()
            width = int(raw[i])
        if has:
            fields.put(int(below[i]) % (1 << width), width)
    upper = Bits()
    for i in np.flatnonzero(r.has_upper(known, symbol)).tolist():
        upper.put(int(below[i]) >> int(raw[i]), int(r.zero[i] - raw[i]))
    for part in (fields, upper) if r.zero_chunk > r.raw_chunk else (fields,):
        sink.varint(len(part.to_bytes()))
        sink += part.to_bytes()
