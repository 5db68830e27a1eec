"""Floats from what somebody quantised them to (SPEC.md 6.12), both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.blocks import BLOCKS, dequantise
from oracle.delta import CONTEXTS, ordered, unordered, wrapped
from oracle.floats import FORMATS, Flags, Format, Ints
from oracle.rans import PLAIN, Log, read_stream, write_stream
from oracle.wire import Bits, BitSource, Malformed, Sink, Source

NAMES = {block[0]: name for name, block in BLOCKS.items()}
MAGNITUDE = (1 << 31) - 1


@dataclass(frozen=True)
class Head:
    tz: int
    near: int
    widths: list[int]
    map: list[int]


def _head(source: Source, f: Format) -> Head:
    tz, near = source.take(2)
    used = int.from_bytes(source.take(2), "little")
    widths = [source.u8() if used >> c & 1 else 0 for c in range(CONTEXTS)]
    if tz > f.mant or max(near, *widths) > 24:
        raise Malformed("impossible parameters of what is adopted")
    contexts = [c for b in source.take(32) for c in (b % 16, b // 16)]
    return Head(tz, near, widths, contexts)


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
    #: Nearest ordered integer, and where codes that are odd lead from there.
    middle: Ints
    toward: Ints
    #: End of the magnitudes near zero.
    end: Ints
    context: list[int]

    @staticmethod
    def of(f: Format, head: Head, values: Ints, steps: Ints) -> Predicted:
        a, g, negative = values & MAGNITUDE, steps & MAGNITUDE, values > MAGNITUDE
        near = a < g
        classes = np.where(
            near,
            np.minimum((g - a) >> 20, 31),
            32 + np.minimum(4 * (a >> 23) + 3 - (g >> 21), 31),
        )
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
            np.where(above ^ negative, -1, 1),
            end,
            np.array(head.map)[classes].tolist(),
        )

    def elements(self, z: Ints) -> Ints:
        f, tz, n = self.f, self.head.tz, self.head.near
        by = np.where(z % 2 == 1, (z + 1) // 2, -(z // 2)) * self.toward
        o = wrapped(self.middle + by, 8 * f.size - tz)
        far = unordered(f, (o << tz) | np.where(o < 0, (1 << tz) - 1, 0))
        w = z - 1
        y = (w >> (n + 1) << n) + w % (1 << n)
        u = ((self.end - 1 - y) << tz) % f.sign
        near = u + np.where((w >> n) % 2 ^ self.negative, f.sign, 0)
        return np.where(self.near, np.where(z == 0, 0, near), far)

    def codes(self, new: Ints) -> Ints:
        """Codes of elements, -1 where there is none; they may be too large for a symbol."""
        f, tz, n = self.f, self.head.tz, self.head.near
        by = wrapped((ordered(f, new) >> tz) - self.middle, 32) * self.toward
        far = np.where(by > 0, 2 * by - 1, -2 * by)
        y = self.end - 1 - ((new & (f.sign - 1)) >> tz)
        other = (new >= f.sign) ^ self.negative
        near = 1 + (((y >> n << 1) + other) << n) + y % (1 << n)
        near = np.where(new == 0, 0, np.where(y < 0, -1, near))
        z = np.where(self.near, near, far)
        return np.where(self.elements(np.maximum(z, 0)) == new, z, -1)


def read_adopt(
    source: Source, f: Format, prior: Sequence[bytes], elems: list[int], log: Log
) -> Ints:
    """Elements before the patches; ``prior`` are the source bytes of each segment."""
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
    symbols = read_stream(source, p.context, [PLAIN] * CONTEXTS, log)
    z = symbols
    if any(head.widths):
        fields = Source(source.take(source.varint()))
        bits = BitSource(fields)
        z = []
        for c, s in zip(p.context, symbols, strict=True):
            field = bits.take(head.widths[c]) if s else 0
            z.append(((s - 1) << head.widths[c]) + field + 1 if s else 0)
        fields.end()
    return p.elements(np.array(z))


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
    sink += bytes([BLOCKS[block][0], head.tz, head.near])
    sink += sum((w > 0) << c for c, w in enumerate(head.widths)).to_bytes(2, "little")
    sink += bytes(w for w in head.widths if w)
    sink += bytes(a + 16 * b for a, b in zip(head.map[::2], head.map[1::2], strict=True))
    p = Predicted.of(f, head, *dequantise(block, b"".join(sources)))
    z = p.codes(new)
    symbols, bits = [], Bits()
    far = np.zeros(len(new), bool)
    for i, (v, c) in enumerate(zip(z.tolist(), p.context, strict=True)):
        s = 0 if v == 0 else ((v - 1) >> head.widths[c]) + 1
        far[i] = v < 0 or s > 255
        symbols.append(0 if far[i] else s)
        if symbols[-1]:
            bits.put(v - 1 & ((1 << head.widths[c]) - 1), head.widths[c])
    write_stream(sink, symbols, p.context, [PLAIN] * CONTEXTS, choices)
    if any(head.widths):
        fields = bits.to_bytes()
        sink.varint(len(fields))
        sink += fields
    at = np.flatnonzero(far)
    sink.varint(len(at))
    for i, gap in zip(at, np.diff(at, prepend=-1) - 1, strict=True):
        sink.varint(int(gap))
        sink += int(new[i]).to_bytes(f.size, "little")
    return bytes(sink)
