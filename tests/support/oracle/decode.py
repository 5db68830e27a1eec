"""Chunk payload and previous bytes to next bytes (SPEC.md 6.3 to 6.13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.adopt import read_adopt
from oracle.delta import read_delta, read_opaque
from oracle.floats import FORMATS, Format, Ints
from oracle.levels import (
    CONTEXTS,
    Known,
    Refinement,
    Rows,
    bin_bits,
    combine,
    know_bins,
    know_cells,
    move_bins,
)
from oracle.rans import PAIRED, PLAIN, Log, read_ints, read_stream
from oracle.wire import Malformed, Source, unzigzag

OPAQUE, BASE, REFINE, FULL, DELTA, OPAQUE_DELTA, ADOPT = range(7)
FROM_CELLS, TO_CELLS, SHIFTED, SPARSE = 1, 2, 4, 8
MAX_WIDTH = 25
K_MAX = 15


def decode_chunk(
    payload: bytes,
    dtype: str,
    item: int,
    segments: Sequence[Any],
    log: Log | None = None,
    sources: Sequence[bytes] | None = None,
) -> list[bytes]:
    """The segments' bytes in the next state.

    Args:
        payload: One chunk.
        dtype: Of its tensors.
        item: Bytes per element.
        segments: Objects with ``mem`` (previous bytes), ``elems`` and ``cols``.
        log: Receives the writer's choices as ``(name, value)``, for a `Replay`.
        sources: Parent's bytes for each segment; None: the segments' own.

    Raises:
        Malformed: The payload is not a valid chunk for these segments.
    """
    log = [] if log is None else log
    source = Source(payload)
    kind, code = source.u8(), source.u8()
    if (kind, code) == (OPAQUE, 0):
        out = _opaque(source, item, [s.elems for s in segments], log)
        source.end()
        return out
    if (kind, code) == (OPAQUE_DELTA, 0):
        prior = [bytes(s.mem) for s in segments] if sources is None else list(sources)
        out = read_opaque(source, item, prior, [s.elems for s in segments], log)
        source.end()
        return out
    if dtype not in FORMATS:
        raise Malformed("levels for elements that have none")
    f = FORMATS[dtype]
    rows = Rows.of([(s.elems, s.cols) for s in segments])
    if code != f.code or source.u32() != len(rows.lengths) or source.u32() != len(rows.row):
        raise Malformed("not for these segments")
    if kind in (BASE, FULL):
        bits, exponents = _base(source, f, rows, segments, log)
        if kind == FULL:
            bits = _refine(source, f, rows, bits, exponents, log)
    elif kind == REFINE:
        bits = f.load(b"".join(bytes(s.mem) for s in segments))
        bits = _refine(source, f, rows, bits, None, log)
    elif kind == DELTA:
        own = b"".join(bytes(s.mem) for s in segments) if sources is None else None
        prior = own if sources is None else b"".join(sources)
        bits = read_delta(source, f, prior or b"", own, len(rows.row), log)
        bits = _patch(source, f, bits)[0]
    elif kind == ADOPT:
        if sources is None:
            raise Malformed("nothing to adopt")
        bits = read_adopt(source, f, sources, [s.elems for s in segments], log)
        bits = _patch(source, f, bits)[0]
    else:
        raise Malformed("unknown kind")
    source.end()
    ends = np.cumsum([s.elems for s in segments])
    return [f.store(part) for part in np.split(bits, ends[:-1])]


def _base(
    source: Source, f: Format, rows: Rows, segments: Sequence[Any], log: Log
) -> tuple[Ints, list[int]]:
    scales = read_ints(source, len(rows.lengths), log)
    exponents = [s >> 2 for s in scales]
    _check(exponents, f.e_min, f.e_max, "a step exponent")
    columns = []
    for s in segments:
        classes = read_ints(source, min(s.cols, s.elems), log)
        _check(classes, 0, 3, "a column class")
        log.append(("columns", classes))
        columns.append(classes)
    context = [
        4 * (scales[row] & 3) + columns[segment][column]
        for row, segment, column in zip(rows.row, rows.segment, rows.column, strict=True)
    ]
    symbols = np.array(read_stream(source, context, [PLAIN] * 16, log))
    q = np.where(symbols == 0, 0, symbols - 128)
    bits = bin_bits(f, q, np.array(exponents)[rows.row])
    return _patch(source, f, bits)[0], exponents


def _check(values: Sequence[int], least: int, most: int, what: str) -> None:
    if not all(least <= v <= most for v in values):
        raise Malformed(f"{what} is out of range")


def _patch(source: Source, f: Format, bits: Ints) -> tuple[Ints, list[int]]:
    """Elements that travel whole, and which these are."""
    bits = bits.copy()
    at, patched = -1, []
    for _ in range(source.varint()):
        at += 1 + source.varint()
        value = int.from_bytes(source.take(f.size), "little")
        if at >= len(bits):
            raise Malformed("a patch is of an element that does not exist")
        bits[at] = value
        patched.append(at)
    return bits, patched


def _head(source: Source) -> tuple[int, int, int, int]:
    flags, raw, zero, k = source.take(4)
    cells = bool(flags & TO_CELLS)
    if (
        flags > 15
        or not raw <= zero <= MAX_WIDTH
        or (cells and (raw != zero or not 1 <= k <= K_MAX))
        or (not cells and k != 0)
        or (flags & FROM_CELLS and flags & SHIFTED)
    ):
        raise Malformed("impossible parameters of a refinement")
    return flags, raw, zero, k


def _refine(
    source: Source, f: Format, rows: Rows, bits: Ints, exponents: list[int] | None, log: Log
) -> Ints:
    flags, raw, zero, k = _head(source)
    from_cells = bool(flags & FROM_CELLS)
    log.append(("flags", (bool(flags & SHIFTED), bool(flags & SPARSE))))
    log.append(("widths", (raw, zero)))
    if exponents is None:
        exponents = read_ints(source, len(rows.lengths), log)
    elif from_cells:
        raise Malformed("a full chunk goes on from its base")
    _check(exponents, f.e_min - (K_MAX - k if from_cells else 0), f.e_max, "a step exponent")
    tz = [0] * len(exponents)
    if k == 0:
        tz = read_ints(source, len(rows.lengths), log)
        _check(tz, 0, f.mant, "a number of trailing zeros")
        log.append(("zeros", tz))
    e = np.array(exponents)[rows.row]
    r = Refinement(f, from_cells, k, bool(flags & SPARSE), raw, zero, e, np.array(tz)[rows.row])

    known = (know_cells if from_cells else know_bins)(f, bits, e)
    if flags & SHIFTED:
        by = read_stream(source, known.context.tolist(), [PLAIN] * CONTEXTS, log)
        known = move_bins(f, known, np.array([unzigzag(s) for s in by]))
    first = PLAIN if from_cells else PAIRED
    layouts = [first] + [PLAIN] * (CONTEXTS - 1)
    symbol = np.array(read_stream(source, known.context.tolist(), layouts, log))
    below = _fields(source, rows, r, known, symbol)
    out, patched = _patch(source, f, combine(r, known, symbol, below))
    log.append(("patched", [(int(symbol[i]), int(below[i])) for i in patched]))
    return out


def _fields(source: Source, rows: Rows, r: Refinement, known: Known, symbol: Ints) -> Ints:
    """What stands below the symbols: raw fields, and in context 0 their upper parts."""
    fields = _Fields(source.take(source.varint()))
    has, raw, width = r.has_field(known, symbol), r.raw, 0
    below = np.zeros_like(symbol)
    for i in range(len(symbol)):
        if raw[i] != width:
            fields.align()
            width = int(raw[i])
        if has[i]:
            below[i] = fields.take(width)
    fields.end()
    if r.zero_chunk > r.raw_chunk:
        upper = _Fields(source.take(source.varint()))
        for i in np.flatnonzero(r.has_upper(known, symbol)).tolist():
            below[i] += upper.take(int(r.zero[i] - raw[i])) << int(raw[i])
        upper.end()
    return below


class _Fields:
    """Bit fields of any width, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, width: int) -> int:
        start, end = self.at // 8, -(-(self.at + width) // 8)
        if end > len(self.data):
            raise Malformed("there are too few raw bits")
        value = int.from_bytes(self.data[start:end], "little") >> self.at % 8
        self.at += width
        return value % (1 << width)

    def align(self) -> None:
        self.at = -(-self.at // 8) * 8

    def end(self) -> None:
        if -(-self.at // 8) != len(self.data):
            raise Malformed("there are too many raw bits")


def _opaque(source: Source, item: int, elems: list[int], log: Log) -> list[bytes]:
    count = sum(elems)
    if source.u8() != item or source.varint() != count:
        raise Malformed("not for these segments")
    planes = np.empty((count, item), np.uint8)
    for plane in range(item):
        mode = source.u8()
        log.append(("plane", mode))
        if mode == 0:
            planes[:, plane] = source.u8()
        elif mode == 1:
            planes[:, plane] = np.frombuffer(source.take(count), np.uint8)
        elif mode == 2:
            planes[:, plane] = read_stream(source, [0] * count, [PLAIN], log)
        else:
            raise Malformed("a plane has an unknown mode")
    return [part.tobytes() for part in np.split(planes, np.cumsum(elems)[:-1])]
