"""Chunk payload and previous bytes to next bytes (SPEC.md 6.3 to 6.14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.adopt import read_adopt
from oracle.delta import read_delta, read_opaque
from oracle.floats import FORMATS, Format, Ints
from oracle.gaps import read_gaps
from oracle.levels import Rows, bin_bits
from oracle.patches import read_patches
from oracle.rans import Log, check_range, read_ints, read_stream
from oracle.refine import read_refinement
from oracle.wire import Malformed, Source

OPAQUE, BASE, REFINE, FULL, DELTA, OPAQUE_DELTA, ADOPT, GAPS = range(8)


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
            bits = read_refinement(source, f, rows, bits, exponents, log)
    elif kind == REFINE:
        bits = f.load(b"".join(bytes(s.mem) for s in segments))
        bits = read_refinement(source, f, rows, bits, None, log)
    elif kind == DELTA:
        own = b"".join(bytes(s.mem) for s in segments) if sources is None else None
        prior = own if sources is None else b"".join(sources)
        bits = read_delta(source, f, prior or b"", own, len(rows.row), log)
    elif kind == GAPS:
        parts = [bytes(s.mem) for s in segments] if sources is None else sources
        bits = read_gaps(source, f, b"".join(parts), len(rows.row), log)
    elif kind == ADOPT:
        if sources is None:
            raise Malformed("nothing to adopt")
        bits = read_adopt(source, f, sources, [s.elems for s in segments], log)
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
    check_range(exponents, f.e_min, f.e_max, "a step exponent")
    columns = []
    for s in segments:
        classes = read_ints(source, min(s.cols, s.elems), log)
        check_range(classes, 0, 3, "a column class")
        log.append(("columns", classes))
        columns.append(classes)
    context = [
        4 * (scales[row] & 3) + columns[segment][column]
        for row, segment, column in zip(rows.row, rows.segment, rows.column, strict=True)
    ]
    symbols = np.array(read_stream(source, context, 16, log))
    q = np.where(symbols == 0, 0, symbols - 128)
    bits = bin_bits(f, q, np.array(exponents)[rows.row])
    return read_patches(source, f, bits)[0], exponents


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
            planes[:, plane] = read_stream(source, [0] * count, 1, log)
        else:
            raise Malformed("a plane has an unknown mode")
    return [part.tobytes() for part in np.split(planes, np.cumsum(elems)[:-1])]
