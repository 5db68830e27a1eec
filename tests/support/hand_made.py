"""Payloads made by hand, whose fields can be replaced by name."""

from __future__ import annotations

from oracle.wire import Bits, Sink, zigzag

Parts = dict[str, bytes]


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def i16(value: int) -> bytes:
    return value.to_bytes(2, "little", signed=True)


def ints(*values: int) -> bytes:
    """An array of integers; a single one is that of all."""
    if len(values) == 1:
        return b"\0" + i16(values[0])
    return b"\2\0\0" + b"".join(map(i16, values))


def stream(contexts: int, symbol: int = 0) -> bytes:
    """Nothing but one symbol, however often, in one lane and without words."""
    tables = Bits()
    for _ in range(contexts):
        for value, width in ((symbol > 0, 1), (0, 1), (symbol, 8), (0, 8))[: 4 if symbol else 1]:
            tables.put(int(value), width)
    return b"\0" + tables.to_bytes() + u32(1 << 16) + b"\0"


def counted(count: int, symbol: int = 0) -> bytes:
    return bytes([count]) + stream(1, symbol)


def run(size: int, fill: int = 0) -> bytes:
    """Bit fields behind their number of bytes."""
    sink = Sink()
    sink.varint(size)
    return bytes(sink) + bytes([fill]) * size


#: Four F32 weights in two rows. A field can be replaced by its name.
BEGIN = {"kind": b"\2", "dtype": b"\1", "rows": u32(2), "elems": u32(4)}
BASE = {
    **BEGIN,
    "kind": b"\1",
    "scales": ints(0),
    "columns": ints(0),
    "lanes": b"\0",
    "tables": b"\0\0",
    "states": u32(1 << 16),
    "words": b"\0",
    "patches": b"\0",
}
#: From bins of 0 to floats; with f = 0 they become -15/32, of which five bits are open.
EXACT = {
    **BEGIN,
    "flags": b"\1",
    "from": b"\0",
    "mid": b"\4",
    "to": b"\4",
    "exponents": ints(0),
    "trailing": ints(0),
    "shifts": b"",
    "zeros": b"",
    "coarse": b"",
    "octaves": b"\0",
    "positions": run(2),
    "finer": b"",
    "low": run(8),
    "upper": run(3),
    "patches": b"\0",
}
CELLS = {**EXACT, "flags": b"\0"} | dict.fromkeys(("trailing", "octaves", "low", "upper"), b"")
#: With f = 8: 1/32, of which seven bits and the octave are open.
DEEP = {**EXACT, "positions": run(2, 0x88), "octaves": counted(4), "upper": run(4)}
SPARSE = {**EXACT, "flags": b"\5", "zeros": counted(4)}
ABSENT = SPARSE | {"zeros": counted(4, 1)} | dict.fromkeys(("positions", "low", "upper"), run(0))
SHIFTED = {**EXACT, "flags": b"\3", "shifts": stream(14)}
COARSE = {**EXACT, "flags": b"\x09", "coarse": stream(16), "positions": run(1)}
#: Two halvings more, and three bits open.
FINER = {**EXACT, "to": b"\6", "finer": run(1), "upper": run(2)}
FINER_CELLS = {**CELLS, "to": b"\6", "finer": run(1)}
#: Of zeros of cells nothing is open but the low plane.
CELLED = {**EXACT, "from": b"\4", "positions": b"", "upper": run(0)}
BRAIN = {**EXACT, "dtype": b"\3", "low": b""}
HALF = {**EXACT, "dtype": b"\2", "low": run(2)}
FULL = {**BASE, "kind": b"\3"} | {f"{k}'": v for k, v in EXACT.items() if k not in BEGIN}
del FULL["exponents'"]

VARINT_MAX = b"\xff\xff\xff\xff\x0f"
VARINT_LONG = b"\xff\xff\xff\xff\x7f"
VARINT_ENDLESS = b"\x80" * 5 + b"\0"


def table(*fields: tuple[int, int], lengths: tuple[int, ...] = ()) -> bytes:
    """The tables of a base of which that of context 1, which does not occur, has these fields.

    ``lengths`` are bit lengths of frequencies whose further bits are zeros.
    """
    out = Bits()
    for value, width in ((0, 1), (1, 1), *fields):
        out.put(value, width)
    before = 6
    for length in lengths:
        out.unary(zigzag(length - before))
        before = length
        out.put(0, min(max(length - 1, 0), 3))
    out.put(0, 14)
    return out.to_bytes()


def four(*lengths: int) -> bytes:
    """A fine table of symbols 0 to 3 with these bit lengths of 1, 2 and 3."""
    return table((0, 1), (0, 8), (3, 8), (0, 8), lengths=lengths)
