"""Floats as differences to another version's (SPEC.md 6.10), both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.floats import FORMATS, Flags, Format, Ints
from oracle.patches import read_patches, write_patches
from oracle.rans import Log, read_stream, write_stream
from oracle.wire import Bits, Malformed, Run, Sink, Source, unzigzag, zigzag

CONTEXTS = 16
DTYPES = {f.code: name for name, f in FORMATS.items()}


def predict(f: Format, of: Format, bits: Ints) -> Ints:
    """Floats of format ``of`` as floats of format ``f``: the nearest, ties to even."""
    if f == of:
        return bits
    u, sign = bits & (of.sign - 1), np.where(bits >= of.sign, f.sign, 0)
    fraction = u & ((1 << of.mant) - 1)
    if f.mant > of.mant:
        nan = f.inf | fraction << (f.mant - of.mant)
    else:
        nan = f.inf | fraction >> (of.mant - f.mant) | 1 << (f.mant - 1)
    if of.size == 2 and f.size == 2:
        # By way of binary32, which keeps the fraction of a NaN of either.
        fraction = fraction << (23 - of.mant)
        nan = f.inf | fraction >> (23 - f.mant) | 1 << (f.mant - 1)
    value = of.value(np.minimum(u, of.inf - 1))
    below = f.floor(value)
    low = f.value(below)
    # Where the next float would be if there were no largest one.
    unit = np.ldexp(1.0, np.maximum((below >> f.mant) - 1, 0) + f.low - f.mant)
    rest = value - low
    up = (rest > unit / 2) | ((rest == unit / 2) & (below % 2 == 1))
    near = np.minimum(below + up, f.inf)
    return sign | np.where(u > of.inf, nan, np.where(u == of.inf, f.inf, near))


def ordered(f: Format, bits: Ints) -> Ints:
    """Signed integers in the order of the floats: ``-0`` is -1, just below ``+0``."""
    return np.where(bits >= f.sign, -(bits & (f.sign - 1)) - 1, bits)


def unordered(f: Format, o: Ints) -> Ints:
    return np.where(o < 0, -o - 1 + f.sign, o)


def wrapped(o: Ints, bits: int) -> Ints:
    """Two's complement of so many bits."""
    half = 1 << (bits - 1)
    return (o + half) % (2 * half) - half


@dataclass(frozen=True)
class Head:
    low: int
    tz: int
    block: int
    widths: list[int]

    def contexts(self, f: Format, predicted: Ints) -> Ints:
        exponent = (predicted & (f.sign - 1)) >> f.mant
        return np.clip(exponent - self.low, 0, CONTEXTS - 1)


def _head(source: Source, f: Format) -> Head:
    low, tz, block = source.take(3)
    used = int.from_bytes(source.take(2), "little")
    widths = [source.u8() if used >> c & 1 else 0 for c in range(CONTEXTS)]
    if tz > f.mant or not 6 <= block <= 12 or max(widths) > 24:
        raise Malformed("impossible parameters of a delta")
    return Head(low, tz, block, widths)


def read_bytes(source: Source, count: int, log: Log) -> Ints:
    """Bytes that are all one, stored or coded."""
    mode = source.u8()
    log.append(("plane", mode))
    if mode == 0:
        return np.repeat(source.u8(), count).astype(np.int64)
    if mode == 1:
        return np.frombuffer(source.take(count), np.uint8).astype(np.int64)
    if mode == 2:
        return np.array(read_stream(source, [0] * count, 1, log))
    raise Malformed("bytes of an unknown mode")


def write_bytes(sink: Sink, data: Ints, choices: Any) -> None:
    mode = choices.plane(data)
    sink.u8(mode)
    if mode == 0:
        sink.u8(int(data[0]))
    elif mode == 1:
        sink += bytes(data.tolist())
    else:
        write_stream(sink, data.tolist(), [0] * len(data), 1, choices)


def _coded(bitmap: Ints, block: int, count: int) -> Flags:
    """Elements whose block has a bit."""
    bits = np.unpackbits(bitmap.astype(np.uint8), bitorder="little")
    out: Flags = np.repeat(bits, 1 << block)[:count] == 1
    return out


def read_delta(
    source: Source, f: Format, prior: bytes, own: bytes | None, count: int, log: Log
) -> Ints:
    """Elements.

    Args:
        source: At the source's dtype.
        f: Format of the elements.
        prior: Source bytes of all elements.
        own: Not None if these are the chunk's own previous bytes: then of the same format.
        count: Number of elements.
        log: Receives the writer's choices.
    """
    code = source.u8()
    if code not in DTYPES:
        raise Malformed("a delta from no floats")
    head = _head(source, f)
    log.append(("delta", head))
    of = FORMATS[DTYPES[code]]
    if (own is not None and of != f) or len(prior) != count * of.size:
        raise Malformed("not for these sources")
    predicted = predict(f, of, of.load(prior))
    blocks = -(-count // (1 << head.block))
    bitmap = read_bytes(source, -(-blocks // 8), log)
    coded = _coded(bitmap, head.block, count)
    log.append(("bitmap", bitmap))
    out = predicted.copy()
    if coded.any():
        context = head.contexts(f, predicted[coded]).tolist()
        symbols = read_stream(source, context, CONTEXTS, log)
        z = symbols
        if any(head.widths):
            fields = Run(source)
            z = []
            for c, s in zip(context, symbols, strict=True):
                field = fields.take(head.widths[c]) if s else 0
                z.append(((s - 1) << head.widths[c]) + field + 1 if s else 0)
            fields.end()
        width = 8 * f.size - head.tz
        o = (ordered(f, predicted[coded]) >> head.tz) + np.array([unzigzag(v) for v in z])
        o = wrapped(o, width)
        below = np.where(o < 0, (1 << head.tz) - 1, 0)
        out[coded] = unordered(f, (o << head.tz) | below)
    return read_patches(source, f, out)[0]


def _nibbles(a: Ints, b: Ints) -> Ints:
    """Sums of both nibbles, each on its own."""
    return (a // 16 + b // 16) % 16 * 16 + (a + b) % 16


def _signed(z: Ints) -> Ints:
    """Numbers from their zigzag codes."""
    return np.where(z % 2 == 0, z // 2, -(z + 1) // 2)


def _folded(d: Ints, size: int) -> Ints:
    """Zigzag codes of numbers modulo ``size``, taken as those nearest to 0."""
    d = (d + size // 2) % size - size // 2
    return np.where(d < 0, -2 * d - 1, 2 * d)


def read_opaque(
    source: Source, item: int, prior: list[bytes], elems: list[int], log: Log
) -> list[bytes]:
    """Bytes of the segments (SPEC.md 6.11), ``prior`` those of the sources."""
    count = sum(elems)
    if source.u8() != item or source.varint() != count:
        raise Malformed("not for these segments")
    if [len(p) for p in prior] != [n * item for n in elems]:
        raise Malformed("not for these sources")
    stride = source.varint()
    if not 1 <= stride <= min(256, count * item):
        raise Malformed("planes that cannot be")
    log.append(("stride", stride))
    data = np.frombuffer(b"".join(prior), np.uint8).astype(np.int64)
    for p in range(stride):
        old = data[p::stride]
        mode = source.u8()
        log.append(("plane", mode))
        if mode == 0:
            data[p::stride] = source.u8()
        elif mode == 1:
            data[p::stride] = np.frombuffer(source.take(len(old)), np.uint8)
        elif mode == 2:
            data[p::stride] = read_stream(source, [0] * len(old), 1, log)
        elif mode in (4, 5, 6):
            context = (old // 16).tolist()
            z = np.array(read_stream(source, context, CONTEXTS, log))
            both = _nibbles(old, _signed(z // 16) % 16 * 16 + _signed(z % 16) % 16)
            data[p::stride] = [(old + _signed(z)) % 256, old ^ z, both][mode - 4]
        elif mode != 3:
            raise Malformed("a plane has an unknown mode")
    ends = np.cumsum([n * item for n in elems])[:-1]
    return [part.astype(np.uint8).tobytes() for part in np.split(data, ends)]


def encode_opaque_delta(
    item: int, segments: Sequence[Any], sources: Sequence[bytes], choices: Any
) -> bytes:
    """The payload of elements without levels as differences to those of another version."""
    new = np.frombuffer(b"".join(bytes(s.mem) for s in segments), np.uint8).astype(np.int64)
    prior = np.frombuffer(b"".join(sources), np.uint8).astype(np.int64)
    sink = Sink([5, 0, item])
    sink.varint(len(new) // item)
    stride = choices.stride(len(new))
    sink.varint(stride)
    for p in range(stride):
        data, old = new[p::stride], prior[p::stride]
        mode = choices.plane_of(data, old)
        sink.u8(mode)
        if mode == 0:
            sink.u8(int(data[0]))
        elif mode == 1:
            sink += bytes(data.tolist())
        elif mode == 2:
            write_stream(sink, data.tolist(), [0] * len(data), 1, choices)
        elif mode > 3:
            high, low = _folded(data // 16 - old // 16, 16), _folded(data - old, 16)
            by = [_folded(data - old, 256), data ^ old, high * 16 + low][mode - 4]
            context = (old // 16).tolist()
            write_stream(sink, by.tolist(), context, CONTEXTS, choices)
    return bytes(sink)


def encode_delta(
    dtype: str, segments: Sequence[Any], sources: Sequence[bytes], source_dtype: str, choices: Any
) -> bytes:
    """The payload of floats as differences to those of another version."""
    f, of = FORMATS[dtype], FORMATS[source_dtype]
    new = f.load(b"".join(bytes(s.mem) for s in segments))
    predicted = predict(f, of, of.load(b"".join(sources)))
    sink = Sink([4, f.code])
    sink.u32(sum(-(-s.elems // s.cols) for s in segments))
    sink.u32(len(new))
    head, bitmap = choices.delta(f, new, new != predicted)
    sink += bytes([of.code, head.low, head.tz, head.block])
    sink += sum((w > 0) << c for c, w in enumerate(head.widths)).to_bytes(2, "little")
    sink += bytes(w for w in head.widths if w)
    write_bytes(sink, bitmap, choices)
    coded = _coded(bitmap, head.block, len(new))
    far = np.zeros(len(new), bool)
    if coded.any():
        width = 8 * f.size - head.tz
        d = (ordered(f, new) >> head.tz) - (ordered(f, predicted) >> head.tz)
        z = [zigzag(int(v)) for v in wrapped(d, width)[coded]]
        context = head.contexts(f, predicted[coded]).tolist()
        symbols, bits = [], Bits()
        for i, v, c in zip(np.flatnonzero(coded), z, context, strict=True):
            s = (v - 1 >> head.widths[c]) + 1
            odd = head.tz and int(new[i]) & (f.sign - 1) & ((1 << head.tz) - 1)
            far[i] = s > 255 or bool(odd)
            symbols.append(0 if far[i] else s)
            if symbols[-1]:
                bits.put(v - 1 & ((1 << head.widths[c]) - 1), head.widths[c])
        write_stream(sink, symbols, context, CONTEXTS, choices)
        if any(head.widths):
            sink.run(bits)
    write_patches(sink, f, new, far)
    return bytes(sink)
