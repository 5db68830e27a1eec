"""Floats of which few differ from another version's (SPEC.md 6.14), both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.delta import CONTEXTS, ordered, unordered, wrapped
from oracle.floats import FORMATS, Format, Ints
from oracle.patches import read_patches, write_patches
from oracle.rans import Log, read_stream, write_stream
from oracle.wire import Bits, Malformed, Run, Sink, Source, unzigzag, zigzag

LONG = 255


@dataclass(frozen=True)
class Head:
    low: int
    map: list[int]
    widths: list[int]

    def classes(self, f: Format, prior: Ints) -> Ints:
        exponent = (prior & (f.sign - 1)) >> f.mant
        return np.array(self.map)[np.clip(exponent - self.low, 0, CONTEXTS - 1)]


def read_gaps(source: Source, f: Format, prior: bytes, count: int, log: Log) -> Ints:
    """Elements.

    Args:
        source: At the lowest exponent.
        f: Format of the elements and of their sources.
        prior: Source bytes of all elements.
        count: Number of elements.
        log: Receives the writer's choices.
    """
    if len(prior) != count * f.size:
        raise Malformed("not for these sources")
    low, nibbles = source.u8(), source.take(CONTEXTS // 2)
    map_ = [n for b in nibbles for n in (b & 15, b >> 4)]
    used = int.from_bytes(source.take(2), "little")
    classes = [c for c in range(CONTEXTS) if used >> c & 1]
    counts = {c: source.varint() for c in classes}
    widths = {c: source.u8() for c in classes}
    if 0 in counts.values() or sum(counts.values()) > count or max(widths.values(), default=0) > 20:
        raise Malformed("impossible parameters of gaps")
    head = Head(low, map_, [widths.get(c, 0) for c in range(CONTEXTS)])
    log.append(("gaps", head))
    old = f.load(prior)
    out = old.copy()
    if classes:
        context = [c for c in classes for _ in range(counts[c])]
        symbols = iter(read_stream(source, context, CONTEXTS, log))
        fields = Run(source)
        places: list[int] = []
        owners: list[int] = []
        class_of = head.classes(f, old)
        for c in classes:
            members, number, symbol = np.flatnonzero(class_of == c), 0, LONG
            for symbol in (next(symbols) for _ in range(counts[c])):
                number += symbol << widths[c]
                if symbol < LONG:
                    number += fields.take(widths[c])
                    if number >= len(members):
                        raise Malformed("a change of an element that does not exist")
                    places.append(int(members[number]))
                    owners.append(c)
                    number += 1
            if symbol == LONG:
                raise Malformed("a gap has no end")
        fields.end()
        codes = read_stream(source, owners, CONTEXTS, log)
        at = np.array(places)
        o = ordered(f, old[at]) + np.array([unzigzag(z) for z in codes])
        out[at] = unordered(f, wrapped(o, 8 * f.size))
    return read_patches(source, f, out)[0]


def encode_gaps(
    dtype: str, segments: Sequence[Any], sources: Sequence[bytes], choices: Any
) -> bytes:
    """The payload of floats of which few differ from those of another version."""
    f = FORMATS[dtype]
    new, old = f.load(b"".join(bytes(s.mem) for s in segments)), f.load(b"".join(sources))
    sink = Sink([7, f.code])
    sink.u32(sum(-(-s.elems // s.cols) for s in segments))
    sink.u32(len(new))
    differs = new != old
    head = choices.gaps(f, old[differs])
    z = np.array([zigzag(int(v)) for v in wrapped(ordered(f, new) - ordered(f, old), 8 * f.size)])
    far = differs & (z > 255)
    class_of = head.classes(f, old)
    symbols, context, codes, owners, bits = [], [], [], [], Bits()
    for c in range(CONTEXTS):
        members = np.flatnonzero(class_of == c)
        numbers = np.flatnonzero((differs & ~far)[members])
        for gap in (np.diff(numbers, prepend=-1) - 1).tolist():
            steps, rest = divmod(gap, 1 << head.widths[c])
            symbols += [LONG] * (steps // LONG) + [steps % LONG]
            bits.put(rest, head.widths[c])
        context += [c] * (len(symbols) - len(context))
        codes += z[members[numbers]].tolist()
        owners += [c] * len(numbers)
    sink.u8(head.low)
    sink += bytes(a | b << 4 for a, b in zip(head.map[::2], head.map[1::2], strict=True))
    counts = [context.count(c) for c in range(CONTEXTS)]
    sink += sum((n > 0) << c for c, n in enumerate(counts)).to_bytes(2, "little")
    for n in counts:
        if n:
            sink.varint(n)
    sink += bytes(w for w, n in zip(head.widths, counts, strict=True) if n)
    if symbols:
        write_stream(sink, symbols, context, CONTEXTS, choices)
        sink.run(bits)
        write_stream(sink, codes, owners, CONTEXTS, choices)
    write_patches(sink, f, new, far)
    return bytes(sink)
