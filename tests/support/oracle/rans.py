"""Frequency tables, symbol streams and arrays of small integers (SPEC.md 6.6 to 6.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.wire import Bits, BitSource, Malformed, Sink, Source, unzigzag, zigzag

TOTAL = 4096
LOW = 1 << 16

Log = list[tuple[str, Any]]


@dataclass(frozen=True)
class Table:
    """Frequencies of one context as listed: symbol ``first + i`` has ``listed[i]``.

    ``rest`` is the symbol, counted from ``first``, that is not written and takes what is left.
    """

    coarse: bool
    first: int
    rest: int
    listed: tuple[int, ...]

    def frequencies(self) -> list[int]:
        """Of all 256 symbols."""
        out = [0] * 256
        for i, f in enumerate(self.listed):
            out[self.first + i] = f * (16 if self.coarse else 1)
        return out


#: What a context without a table codes: symbol 0, for nothing.
NO_TABLE = [TOTAL] + [0] * 255


def read_table(bits: BitSource) -> Table | None:
    if bits.bit() == 0:
        return None
    coarse = bits.bit() == 1
    first = bits.take(8)
    count = bits.take(8) + 1
    rest = bits.take(8) if count > 1 else 0
    if rest >= count or first + count > 256:
        raise Malformed("a table lists symbols that do not exist")
    left = TOTAL // 16 if coarse else TOTAL
    listed = [0] * count
    length = 6
    for i in range(count):
        if i == rest:
            continue
        length += unzigzag(bits.unary(26))
        if not 0 <= length <= 12:
            raise Malformed("a frequency has an impossible length")
        if length > 0:
            more = min(length - 1, 3)
            listed[i] = ((1 << more) + bits.take(more)) << (length - 1 - more)
        left -= listed[i]
    if left <= 0:
        raise Malformed("frequencies do not add up")
    listed[rest] = left
    return Table(coarse, first, rest, tuple(listed))


def write_table(bits: Bits, table: Table | None) -> None:
    bits.put(int(table is not None), 1)
    if table is None:
        return
    bits.put(int(table.coarse), 1)
    bits.put(table.first, 8)
    bits.put(len(table.listed) - 1, 8)
    if len(table.listed) > 1:
        bits.put(table.rest, 8)
    before = 6
    for i, f in enumerate(table.listed):
        if i == table.rest:
            continue
        length = f.bit_length()
        bits.unary(zigzag(length - before))
        before = length
        if length > 1:
            more = min(length - 1, 3)
            top = f >> (length - 1 - more)
            assert top << (length - 1 - more) == f, "only four leading bits can be written"
            bits.put(top - (1 << more), more)


def read_stream(source: Source, context: Sequence[int], contexts: int, log: Log) -> list[int]:
    """Symbols of a stream of so many contexts, one per element of ``context``."""
    lanes_log = source.u8()
    if lanes_log > 6:
        raise Malformed("more than 64 lanes")
    log.append(("lanes", lanes_log))
    lanes = 1 << lanes_log
    bits = BitSource(source)
    slots = []
    for _ in range(contexts):
        table = read_table(bits)
        log.append(("table", table))
        f = np.array(table.frequencies() if table else NO_TABLE)
        coded = np.repeat(np.arange(256), f)
        start = np.cumsum(f) - f
        slots.append(
            list(zip(coded.tolist(), f[coded].tolist(), start[coded].tolist(), strict=True))
        )
    states = [source.u32() for _ in range(lanes)]
    if min(states) < LOW:
        raise Malformed("a state is too small")
    words = iter(np.frombuffer(source.take(2 * source.varint()), "<u2").tolist())
    out = []
    for i, c in enumerate(context):
        x = states[i % lanes]
        symbol, frequency, first = slots[c][x % TOTAL]
        x = frequency * (x // TOTAL) + x % TOTAL - first
        if x < LOW:
            word = next(words, None)
            if word is None:
                raise Malformed("a stream has too few words")
            x = x * LOW + word
        states[i % lanes] = x
        out.append(symbol)
    if states != [LOW] * lanes or next(words, None) is not None:
        raise Malformed("a stream does not end where it began")
    return out


def write_stream(
    sink: Sink, symbols: Sequence[int], context: Sequence[int], contexts: int, choices: Any
) -> None:
    lanes_log = choices.lanes(len(symbols))
    sink.u8(lanes_log)
    lanes = 1 << lanes_log
    bits = Bits()
    frequencies = []
    for c in range(contexts):
        used = np.array([s for s, of in zip(symbols, context, strict=True) if of == c], np.int64)
        table = choices.table(np.bincount(used, minlength=256).tolist())
        write_table(bits, table)
        frequencies.append(table.frequencies() if table else NO_TABLE)
    sink += bits.to_bytes()
    starts = [np.cumsum([0, *f]).tolist() for f in frequencies]
    states = [LOW] * lanes
    words = []
    # A decoder undoes the writer's last step first.
    for i in reversed(range(len(symbols))):
        frequency = frequencies[context[i]][symbols[i]]
        start = starts[context[i]][symbols[i]]
        x = states[i % lanes]
        if x >= frequency << 20:
            words.append(x % LOW)
            x //= LOW
        states[i % lanes] = x // frequency * TOTAL + start + x % frequency
    for x in states:
        sink.u32(x)
    sink.varint(len(words))
    sink += np.array(words[::-1], "<u2").tobytes()


def read_ints(source: Source, count: int, log: Log) -> list[int]:
    mode, low = source.u8(), source.i16()
    log.append(("ints", (mode, low)))
    if mode == 0:
        return [low] * count
    if mode == 1:
        symbols = read_stream(source, [0] * count, 1, log)
        return [(low + s + 0x8000) % 0x10000 - 0x8000 for s in symbols]
    if mode == 2:
        return [source.i16() for _ in range(count)]
    raise Malformed("an array of integers has an unknown mode")


def check_range(values: Sequence[int], least: int, most: int, what: str) -> None:
    if not all(least <= v <= most for v in values):
        raise Malformed(f"{what} is out of range")


def write_ints(sink: Sink, values: Sequence[int], choices: Any) -> None:
    mode, low = choices.ints(values)
    sink.u8(mode)
    sink.i16(low)
    if mode == 1:
        write_stream(sink, [v - low for v in values], [0] * len(values), 1, choices)
    elif mode == 2:
        for v in values:
            sink.i16(v)
