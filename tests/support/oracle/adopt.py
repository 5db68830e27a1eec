"""Floats from what somebody quantised them to (SPEC.md 6.12), both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.blocks import BLOCKS, dequantise
from oracle.delta import CONTEXTS, ordered, unordered, wrapped
from oracle.floats import FORMATS, Flags, Format, Ints
from oracle.patches import read_patches, write_patches
from oracle.rans import Log, read_stream, write_stream
from oracle.wire import Bits, Malformed, Run, Sink, Source

NAMES = {block[0]: name for name, block in BLOCKS.items()}
MAGNITUDE = (1 << 31) - 1


@dataclass(frozen=True)
class Head:
    tz: int
    turn: int
    widths: list[int]
    map: list[int]


def _head(source: Source, f: Format) -> Head:
    tz, turn = source.take(2)
    used = int.from_bytes(source.take(2), "little")
    widths = [source.u8() if used >> c & 1 else 0 for c in range(CONTEXTS)]
    if tz > f.mant or turn > 32 or max(widths) > 24:
        raise Malformed("impossible parameters of what is adopted")
    contexts = [c for b in source.take(32) for c in (b % 16, b // 16)]
    return Head(tz, turn, widths, contexts)


def _magnitude(f: Format, a: Ints) -> Ints:
    """On the scale of a format, with 23 bits of mantissa."""
    if f.code != 2:
        return a
    x = np.maximum(a >> 23, 1)
    whole = a % (1 << 23) + np.where(a >= 1 << 23, 1 << 23, 0)
    below = whole >> np.clip(113 - x, 0, 31)
    return np.where(a >= 113 << 23, np.minimum(a - (112 << 23), 31 << 23), below)


@dataclass(frozen=True)
class Predicted:
    """What codes mean, element by element."""

    f: Format
    head: Head
    near: Flags
    negative: Flags
    #: Nearest ordered integer, and where codes of side 0 lead from there.
    middle: Ints
    toward: Ints
    #: End of the magnitudes near zero.
    end: Ints
    context: list[int]

    @staticmethod
    def of(f: Format, head: Head, values: Ints, steps: Ints) -> Predicted:
        a, g, negative = values & MAGNITUDE, steps & MAGNITUDE, values > MAGNITUDE
        near = a < g
        far = np.minimum(4 * (a >> 23) + 3 - (g >> 21), 31)
        classes = np.where(near, np.minimum((g - a) >> 20, 31), 32 + far)
        cut = 23 - f.mant + head.tz
        r = _magnitude(f, a)
        middle = (r + ((1 << cut) >> 1)) >> cut
        above = (r >> (cut - 1)) % 2 == 1 if cut else np.zeros(len(a), bool)
        end = _magnitude(f, np.minimum(g, 254 << 23) + (1 << 23)) >> cut
        return Predicted(
            f,
            head,
            near,
            negative,
            np.where(negative, -middle - 1, middle),
            np.where((above | (far < head.turn)) ^ negative, -1, 1),
            end,
            np.array(head.map)[classes].tolist(),
        )

    def elements(self, same: Flags, y: Ints, side: Ints) -> Ints:
        """Elements from their codes: none of it, or a number and a side."""
        f, tz = self.f, self.head.tz
        by = np.where(same, 0, (1 - 2 * side) * (y + 1)) * self.toward
        o = wrapped(self.middle + by, 8 * f.size - tz)
        far = unordered(f, (o << tz) | np.where(o < 0, (1 << tz) - 1, 0))
        u = ((self.end - 1 - y) << tz) % f.sign
        near = np.where(same, 0, u + np.where((side == 1) ^ self.negative, f.sign, 0))
        return np.where(self.near, near, far)

    def codes(self, new: Ints) -> tuple[Flags, Ints, Ints]:
        """Codes of elements; the number is -1 where there is none, and may be too large."""
        f, tz = self.f, self.head.tz
        by = wrapped((ordered(f, new) >> tz) - self.middle, 32) * self.toward
        other = (new >= f.sign) ^ self.negative
        same = np.where(self.near, new == 0, by == 0)
        y = np.where(
            self.near, self.end - 1 - ((new & (f.sign - 1)) >> tz), np.maximum(abs(by) - 1, 0)
        )
        side = np.where(self.near, other, by < 0).astype(np.int64)
        right = (self.elements(same, y, side) == new) & (same | (y >= 0))
        return same, np.where(right, np.maximum(y, 0), -1), side


def read_adopt(
    source: Source, f: Format, prior: Sequence[bytes], elems: list[int], log: Log
) -> Ints:
    """Elements; ``prior`` are the source bytes of each segment."""
    code = source.u8()
    if code not in NAMES:
        raise Malformed("blocks of an unknown type")
    name = NAMES[code]
    count, size = BLOCKS[name][1:3]
    head = _head(source, f)
    if [len(p) * count for p in prior] != [n * size for n in elems]:
        raise Malformed("not for these sources")
    log.append(("adopt", head))
    p = Predicted.of(f, head, *dequantise(name, b"".join(prior)))
    symbols = read_stream(source, p.context, CONTEXTS, log)
    s = np.array(symbols)
    y = np.maximum(s - 1, 0) >> 1
    if any(head.widths):
        fields = Run(source)
        for i in np.flatnonzero(s).tolist():
            width = head.widths[p.context[i]]
            y[i] = (int(y[i]) << width) + fields.take(width)
        fields.end()
    return read_patches(source, f, p.elements(s == 0, y, (s - 1) % 2))[0]


def encode_adopt(
    dtype: str, segments: Sequence[Any], sources: Sequence[bytes], block: str, choices: Any
) -> bytes:
    """The payload of floats as what is missing in a quantised copy."""
    f = FORMATS[dtype]
    new = f.load(b"".join(bytes(s.mem) for s in segments))
    sink = Sink([6, f.code])
    sink.u32(sum(-(-s.elems // s.cols) for s in segments))
    sink.u32(len(new))
    head = choices.adopt(f)
    sink += bytes([BLOCKS[block][0], head.tz, head.turn])
    sink += sum((w > 0) << c for c, w in enumerate(head.widths)).to_bytes(2, "little")
    sink += bytes(w for w in head.widths if w)
    sink += bytes(a + 16 * b for a, b in zip(head.map[::2], head.map[1::2], strict=True))
    p = Predicted.of(f, head, *dequantise(block, b"".join(sources)))
    symbols, bits = [], Bits()
    far = np.zeros(len(new), bool)
    for i, (same, y, side) in enumerate(zip(*(v.tolist() for v in p.codes(new)), strict=True)):
        width = head.widths[p.context[i]]
        s = 0 if same else 2 * (y >> width) + side + 1
        far[i] = y < 0 or s > 255
        symbols.append(0 if far[i] else s)
        if symbols[-1]:
            bits.put(y % (1 << width), width)
    write_stream(sink, symbols, p.context, CONTEXTS, choices)
    if any(head.widths):
        sink.run(bits)
    write_patches(sink, f, new, far)
    return bytes(sink)
