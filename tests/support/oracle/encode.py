"""Weights to chunk payloads: a writer whose every choice is a `Choices`' (SPEC.md 6.3 to 6.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.decode import BASE, FULL, OPAQUE, REFINE
from oracle.floats import FORMATS, Format, Ints
from oracle.levels import Rows, bin_bits, nearest_bin, steps
from oracle.patches import write_patches
from oracle.rans import write_ints, write_stream
from oracle.refine import Head
from oracle.wire import Sink
from oracle.write_refine import write_refinement


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
            write_stream(sink, plane.tolist(), [0] * len(plane), 1, choices)
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
        head = choices[0].head(0, 0)
        write_refinement(sink, f, rows, bits, state, exponents, head, choices[0], full)
        return [bytes(sink)]
    payloads = [bytes(sink)]
    halved = 0
    for level, choice in zip(levels, choices[1:], strict=True):
        head = choice.head(halved, level)
        sink = _header(REFINE, f, rows)
        state = write_refinement(sink, f, rows, bits, state, exponents, head, choice)
        payloads.append(bytes(sink))
        halved = level
    return payloads


def encode_refinement(
    dtype: str,
    segments: Sequence[Any],
    before: bytes,
    exponents: list[int],
    head: Head,
    choices: Any,
) -> bytes:
    """One refinement that leads from any previous bytes to the segments' floats, or their cells."""
    f = FORMATS[dtype]
    rows = Rows.of([(s.elems, s.cols) for s in segments])
    bits = f.load(b"".join(bytes(s.mem) for s in segments))
    sink = _header(REFINE, f, rows)
    write_refinement(sink, f, rows, bits, f.load(before), exponents, head, choices)
    return bytes(sink)


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
    write_stream(sink, symbols.tolist(), context, 16, choices)
    write_patches(sink, f, bits, escaped)
    return np.where(escaped, bits, bin_bits(f, q, scale >> 2))
