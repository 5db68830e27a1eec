"""Chunks from strangers: refused or decoded, on every instruction set alike, and nothing else.

Payloads and tensors lie right before pages that cannot be touched, so a read or write that goes
too far ends the process. What is accepted must be what the oracle accepts, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.floats import FORMATS
from oracle.guard import Guarded
from oracle.bins import Rows
from oracle.rans import Table, write_table
from oracle.refine import write_refinement
from oracle.samples import FAMILIES, Sample
from oracle.wire import Bits, Sink, zigzag

from p2u.codec import core
from p2u.errors import FormatError

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]


@dataclass(frozen=True)
class Case:
    """A valid payload, what it is for and what was there before."""

    name: str
    payload: bytes
    dtype: str
    item: int
    shapes: tuple[tuple[int, int], ...]
    before: bytes

    def segments(self, memory: bytes | memoryview) -> list[core.Segment]:
        out: list[core.Segment] = []
        at = 0
        for elems, cols in self.shapes:
            out.append(core.Segment(memory[at : at + elems * self.item], elems, cols))
            at += elems * self.item
        return out


ROOM_IN, ROOM_OUT = Guarded(1 << 20), Guarded(1 << 20)


def apply(case: Case, payload: bytes, isa: int = core.AUTO) -> bytes | None:
    """The bytes after the payload, or None if it was refused."""
    memory = ROOM_OUT.hold(case.before)
    try:
        core.apply(ROOM_IN.hold(payload), case.dtype, case.item, case.segments(memory), isa)
    except FormatError:
        return None
    return bytes(memory)


def apply_all(case: Case, payload: bytes) -> bytes | None:
    """The same on all instruction sets."""
    results = [apply(case, payload, isa) for isa in TWINS]
    assert all(r == results[0] for r in results)
    return results[0]


def apply_oracle(case: Case, payload: bytes) -> bytes | None:
    try:
        parts = oracle.decode_chunk(payload, case.dtype, case.item, case.segments(case.before))
    except oracle.Malformed:
        return None
    return b"".join(parts)


def chain(
    sample: Sample, wanted: list[int], name: str, codes: bool = False, offset: int = -160
) -> Iterator[Case]:
    """Cases of a sample's base and refinements."""
    segments = sample.segments()
    scales = core.row_scales(sample.dtype, offset, segments)
    done = core.encode(
        sample.dtype, segments, scales, wanted, codes=sample.codes() if codes else None
    )
    memory = sample.blank()
    for level, payload in zip(["base", *wanted], done.payloads, strict=True):
        before = b"".join(bytes(s.mem) for s in memory)
        yield Case(f"{name}-{level}", payload, sample.dtype, sample.item, sample.shapes, before)
        core.apply(payload, sample.dtype, sample.item, memory)


@cache
def cases(large: bool) -> tuple[Case, ...]:
    """Every kind of chunk; the large ones have 64 lanes."""
    shapes = ((20_000, 100), (300, 30)) if large else ((300, 20), (7, 4))
    out: list[Case] = []
    for dtype in sorted(FORMATS):
        out += chain(Sample(dtype, "special", shapes, 1), [4, 0], f"{dtype}-special")
        out += chain(Sample(dtype, "normal", shapes, 2), [0], f"{dtype}-shifted", codes=True)
        out += chain(Sample(dtype, "sparse", shapes, 3), [0], f"{dtype}-sparse")
        out += chain(Sample(dtype, "sparse", shapes, 5), [2, 5, 0], f"{dtype}-sparse-cells")
        out += chain(Sample(dtype, "normal", shapes, 6), [3, 0], f"{dtype}-coarse", offset=60)
        out += chain(Sample(dtype, "short", shapes, 7), [0], f"{dtype}-short")
        out += chain(Sample(dtype, "lognormal", shapes, 8), [8, 15, 0], f"{dtype}-deep")
        sample = Sample(dtype, "cauchy", shapes, 4)
        segments = sample.segments()
        full = core.encode(
            dtype, segments, core.row_scales(dtype, 0, segments), [], full=True
        ).payloads[0]
        blank = b"".join(s.mem for s in segments)
        out.append(Case(f"{dtype}-full", full, dtype, sample.item, shapes, blank))
    for item in (1, 3):
        rng = np.random.default_rng(item)
        n = sum(elems for elems, _ in shapes)
        data = (rng.geometric(0.2, n * item) % 256).astype(np.uint8)
        data[item - 1 :: item] = 7
        segment = core.Segment(data.tobytes(), n, 1)
        payload = core.encode_opaque(item, [segment]).payloads[0]
        out.append(Case(f"opaque-{item}", payload, "I8", item, ((n, 1),), bytes(n * item)))
    return tuple(out)


SMALL, LARGE = cases(False), cases(True)


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_cut_at_every_byte(case: Case) -> None:
    assert apply_all(case, case.payload) is not None
    for size in range(len(case.payload)):
        assert apply_all(case, case.payload[:size]) is None, f"accepted {size} bytes"
    for more in (b"\0", b"\1", bytes(100)):
        assert apply_all(case, case.payload + more) is None


@pytest.mark.parametrize("case", LARGE, ids=lambda c: c.name)
def test_cut_somewhere(case: Case) -> None:
    rng = np.random.default_rng(len(case.payload))
    for size in rng.integers(0, len(case.payload), 12).tolist():
        assert apply_all(case, case.payload[:size]) is None


def flipped(payload: bytes, rng: np.random.Generator) -> bytes:
    """A payload with one to three changes, most of them near its beginning."""
    out = bytearray(payload)
    for _ in range(rng.integers(1, 4)):
        if not out:
            break
        at = int(rng.integers(min(len(out), int(rng.choice([40, 400, len(out)])))))
        how = rng.integers(4)
        if how == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            out[at] = int(rng.integers(256))
        elif how == 2:
            out[at] = int(rng.choice([0, 1, 127, 128, 255]))
        else:
            out[at : at + int(rng.integers(5))] = rng.bytes(int(rng.integers(5)))
    return bytes(out)


def check_like_the_oracle(case: Case, payload: bytes) -> None:
    expected = apply_oracle(case, payload)
    found = apply_all(case, payload)
    assert (found is None) == (expected is None)
    assert found == expected


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_changed_bytes(case: Case) -> None:
    """Accepted exactly if the oracle accepts it, and decoded to the same."""
    rng = np.random.default_rng(len(case.payload))
    for _ in range(12):
        check_like_the_oracle(case, flipped(case.payload, rng))


@pytest.mark.parametrize("case", LARGE, ids=lambda c: c.name)
def test_changed_bytes_of_large_chunks(case: Case) -> None:
    rng = np.random.default_rng(len(case.payload))
    for _ in range(12):
        apply_all(case, flipped(case.payload, rng))


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_other_memory(case: Case) -> None:
    """Refinements of bytes that are no state of the chunk: any result, the same everywhere."""
    rng = np.random.default_rng(5)
    for _ in range(3):
        other = replace(case, before=rng.bytes(len(case.before)))
        check_like_the_oracle(other, case.payload)


@given(st.sampled_from(SMALL), st.binary(max_size=200), st.integers(0, 12))
def test_garbage(case: Case, garbage: bytes, kept: int) -> None:
    check_like_the_oracle(case, case.payload[:kept] + garbage)


@pytest.mark.fuzz
@given(st.sampled_from(SMALL), st.integers(0, 2**63 - 1))
def test_fuzz_like_the_oracle(case: Case, seed: int) -> None:
    check_like_the_oracle(case, flipped(case.payload, np.random.default_rng(seed)))


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@settings(max_examples=20_000)
@given(st.sampled_from(SMALL + LARGE), st.integers(0, 2**63 - 1))
def test_fuzz_twins(case: Case, seed: int) -> None:
    apply_all(case, flipped(case.payload, np.random.default_rng(seed)))


# --- Payloads made by hand: four F32 weights, two rows; each field can be replaced.


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def ints(value: int) -> bytes:
    """An array of equal integers."""
    return b"\0" + value.to_bytes(2, "little", signed=True)


#: A stream of nothing but zeros: one lane, no tables, no words.
STREAM = {"lanes": b"\0", "tables": b"\0\0", "states": u32(1 << 16), "words": b"\0"}
BASE = {
    "kind": b"\1",
    "dtype": b"\1",
    "rows": u32(2),
    "elems": u32(4),
    "scales": ints(0),
    "columns": ints(0),
    **STREAM,
    "patches": b"\0",
}
START = {**{name: BASE[name] for name in ("dtype", "rows", "elems")}}


def refine(flags: int, before: int, after: int) -> bytes:
    return bytes([flags, before, after])


def stream(contexts: int, symbol: int = 0) -> bytes:
    """One symbol all over, in each context."""
    tables = Bits()
    for _ in range(contexts):
        write_table(tables, Table(False, symbol, 0, (4096,)))
    return b"\0" + tables.to_bytes() + u32(1 << 16) + b"\0"


def run(data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([len(data)]) + data


#: Positions 0, in cells with 5 bits of upper fields.
REFINE = {
    "kind": b"\2",
    **START,
    "head": refine(1, 0, 4),
    "exponents": ints(0),
    "zeros": ints(0),
    "shifts": b"",
    "named": b"",
    "coarse": b"",
    "positions": run(bytes(2)),
    "low": run(bytes(8)),
    "upper": run(bytes(3)),
    "deep": run(b""),
    "patches": b"\0",
}
NOTHING = {"low": b"", "upper": b"", "deep": b""}
CELLS = {**REFINE, **NOTHING, "head": refine(0, 0, 4), "zeros": b""}
#: Of zeros from cells, which are known and have nothing but low bits.
CLOSE = {**REFINE, "head": refine(1, 4, 4), "positions": b"", "upper": run(b"")}
#: Positions of the cells at zero.
DEEP = {
    **REFINE,
    "positions": run(b"\x78\x78"),
    "upper": run(b""),
    "deep": run(b"\x10\x02" + bytes(6) + b"\0\0"),
}
EVERY = {
    **REFINE,
    "head": refine(15, 0, 4),
    "shifts": stream(14),
    "named": stream(2),
    "coarse": stream(16),
    "positions": run(bytes(1)),
}
FULL = {**BASE, "kind": b"\3"}
FULL["head"] = REFINE["head"]
FULL["rest"] = b"".join(REFINE[k] for k in list(REFINE)[list(REFINE).index("zeros") :])
HAND = Case("hand", b"", "F32", 4, ((4, 2),), bytes(16))
#: The same where nothing is zero.
ONES = Case("ones", b"", "F32", 4, ((4, 2),), np.ones(4, "<f4").tobytes())

VARINT_MAX = b"\xff\xff\xff\xff\x0f"
VARINT_LONG = b"\xff\xff\xff\xff\x7f"
VARINT_ENDLESS = b"\x80" * 5 + b"\0"


def table(*fields: tuple[int, int], lengths: tuple[int, ...] = ()) -> bytes:
    """The tables of a base of which one, that of context 1, which does not occur, has these fields
    after its flag. ``lengths`` are bit lengths of frequencies whose further bits are zeros."""
    out = Bits()
    out.put(0, 1)
    out.put(1, 1)
    for value, width in fields:
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


BAD = {
    "kind 9": (BASE, {"kind": b"\x09"}),
    "kind 255": (BASE, {"kind": b"\xff"}),
    "kind opaque": (BASE, {"kind": b"\0"}),
    "opaque in elements of another size": (BASE, {"kind": b"\0", "dtype": b"\0", "rows": b"\2\4"}),
    "dtype of others": (BASE, {"dtype": b"\3"}),
    "dtype unknown": (BASE, {"dtype": b"\4"}),
    "huge row count": (BASE, {"rows": u32(2**32 - 1)}),
    "huge element count": (BASE, {"elems": u32(2**32 - 1)}),
    "no rows": (BASE, {"rows": u32(0)}),
    "ints mode 3": (BASE, {"scales": b"\3\0\0"}),
    "exponent too high": (BASE, {"scales": ints(4 * 120)}),
    "exponent too low": (BASE, {"scales": ints(4 * -110 - 1)}),
    "column class 4": (BASE, {"columns": ints(4)}),
    "column class -1": (BASE, {"columns": ints(-1)}),
    "lanes 7": (BASE, {"lanes": b"\7"}),
    "lanes 255": (BASE, {"lanes": b"\xff"}),
    "lanes without states": (BASE, {"lanes": b"\6"}),
    "state too small": (BASE, {"states": u32((1 << 16) - 1)}),
    "state zero": (BASE, {"states": u32(0)}),
    "state left over": (BASE, {"states": u32((1 << 16) + 1)}),
    "words left over": (BASE, {"words": b"\1\0\0"}),
    "huge word count": (BASE, {"words": VARINT_MAX}),
    "word count beyond 32 bits": (BASE, {"words": VARINT_LONG}),
    "word count without end": (BASE, {"words": VARINT_ENDLESS}),
    "table beyond 256 symbols": (BASE, {"tables": table((0, 1), (255, 8), (1, 8), (0, 8))}),
    "table of 511 symbols": (BASE, {"tables": table((0, 1), (255, 8), (255, 8), (0, 8))}),
    "rest not listed": (BASE, {"tables": table((0, 1), (0, 8), (1, 8), (2, 8), lengths=(1,))}),
    "unary without end": (BASE, {"tables": table((0, 1), (0, 8), (1, 8), (0, 8))}),
    "unary of 27": (BASE, {"tables": table((0, 1), (0, 8), (1, 8), (0, 8), (1 << 27, 28))}),
    "frequency of 13 bits": (BASE, {"tables": four(13, 0, 0)}),
    "frequency of -1 bits": (BASE, {"tables": four(0, -1, 0)}),
    "frequencies too large": (BASE, {"tables": four(12, 12, 0)}),
    "nothing left for the rest": (BASE, {"tables": four(12, 11, 11)}),
    "patch out of range": (BASE, {"patches": b"\1\4" + bytes(4)}),
    "patch far out of range": (BASE, {"patches": b"\1" + VARINT_MAX + bytes(4)}),
    "patch that wraps": (BASE, {"patches": b"\2\3" + bytes(4) + VARINT_MAX + bytes(4)}),
    "more patches than elements": (BASE, {"patches": b"\5" + b"\0abcd" * 5}),
    "huge patch count": (BASE, {"patches": VARINT_MAX + b"\0abcd"}),
    "flag 16": (REFINE, {"head": refine(17, 0, 4)}),
    "all flags": (EVERY, {"head": refine(255, 0, 4)}),
    "to below from": (CELLS, {"head": refine(0, 5, 4)}),
    "to far below from": (CELLS, {"head": refine(0, 255, 0)}),
    "9 halvings": (CELLS, {"head": refine(0, 0, 9), "positions": run(bytes(5))}),
    "16 halvings in all": (CELLS, {"head": refine(0, 12, 16)}),
    "255 halvings in all": (CELLS, {"head": refine(0, 251, 255)}),
    "no halvings": (CELLS, {"head": refine(0, 4, 4), "positions": b""}),
    "no halvings from the base": (CLOSE, {"head": refine(1, 0, 0)}),
    "nothing at all": (CELLS, {"head": refine(0, 0, 0), "positions": b""}),
    "shifted from cells": (CELLS, {"head": refine(2, 4, 8), "shifts": stream(14)}),
    "coarse from cells": (
        CELLS,
        {"head": refine(8, 4, 8), "coarse": stream(16), "positions": run(bytes(1))},
    ),
    "zeros named from cells": (CELLS, {"head": refine(4, 4, 8), "named": stream(2)}),
    "coarse with one bit": (CELLS, {"head": refine(8, 0, 1), "coarse": stream(16)}),
    "coarse with one bit and no run": (
        CELLS,
        {"head": refine(8, 0, 1), "coarse": stream(16), "positions": b""},
    ),
    "exponents too high": (REFINE, {"exponents": ints(120)}),
    "exponents too low": (REFINE, {"exponents": ints(-111)}),
    "exponents from cells too low": (CLOSE, {"exponents": ints(-111)}),
    "exponents from cells too high": (CELLS, {"head": refine(0, 4, 8), "exponents": ints(120)}),
    "zeros 24": (REFINE, {"zeros": ints(24), "low": run(b"")}),
    "zeros -1": (REFINE, {"zeros": ints(-1)}),
    "zeros in cells": (CELLS, {"zeros": ints(0)}),
    "a shift stream of few contexts": (EVERY, {"shifts": stream(13)}),
    "a zero stream of three contexts": (EVERY, {"named": stream(3)}),
    "a coarse stream of few contexts": (EVERY, {"coarse": stream(14)}),
    "no shift stream": (EVERY, {"shifts": b""}),
    "a zero of no sign": (EVERY, {"named": stream(2, 3), "low": run(b"")}),
    "a zero of symbol 255": (EVERY, {"named": stream(2, 255), "low": run(b"")}),
    "three upper bits": (EVERY, {"coarse": stream(16, 4)}),
    "eight upper bits": (EVERY, {"coarse": stream(16, 255)}),
    "a coarse run of all bits": (EVERY, {"positions": run(bytes(2))}),
    "positions too short": (REFINE, {"positions": run(bytes(1))}),
    "positions too long": (REFINE, {"positions": run(bytes(3))}),
    "no positions": (REFINE, {"positions": run(b"")}),
    "huge positions": (REFINE, {"positions": VARINT_MAX}),
    "positions of named zeros": (EVERY, {"named": stream(2, 1), "low": run(b"")}),
    "low bits of named zeros": (EVERY, {"named": stream(2, 1), "positions": run(b"")}),
    "low too short": (REFINE, {"low": run(bytes(7))}),
    "low too long": (REFINE, {"low": run(bytes(9))}),
    "low bits that are zero": (REFINE, {"zeros": ints(2)}),
    "low bits of 8": (REFINE, {"zeros": ints(8)}),
    "huge low": (REFINE, {"low": VARINT_MAX}),
    "endless low": (REFINE, {"low": VARINT_ENDLESS}),
    "upper too short": (REFINE, {"upper": run(bytes(1))}),
    "upper too long": (REFINE, {"upper": run(bytes(4))}),
    "huge upper": (REFINE, {"upper": VARINT_MAX}),
    "deep of none": (REFINE, {"deep": run(bytes(1))}),
    "huge deep": (REFINE, {"deep": VARINT_MAX}),
    "runs in another order": (REFINE, {"low": REFINE["upper"], "upper": REFINE["low"]}),
    "full that ends in cells": (
        {**FULL, "rest": CELLS["positions"] + b"\0"},
        {"head": refine(0, 0, 4)},
    ),
    "full from cells": (FULL, {"head": refine(1, 1, 4)}),
    "full from the same cells": (
        {**FULL, "rest": CLOSE["zeros"] + CLOSE["low"] + b"\0\0\0"},
        {"head": refine(1, 4, 4)},
    ),
}

#: Of zeros alone: how long their fields are depends on the bytes before.
BAD_OF_ZEROS = {
    "upper one byte too short": (REFINE, {"upper": run(bytes(2))}),
    "fields of those who are known": (CLOSE, {"upper": run(bytes(1))}),
    "deep too short": (DEEP, {"deep": run(DEEP["deep"][1:-1])}),
    "deep too long": (DEEP, {"deep": run(DEEP["deep"][1:] + b"\0")}),
    "deep without end": (DEEP, {"deep": run(bytes(13))}),
    "deep with more than its end": (DEEP, {"deep": run(bytes(15))}),
    "deep that are none": (DEEP, {"deep": run(b"")}),
    "fields of deep ones": (DEEP, {"upper": run(bytes(1))}),
    "no low bits of deep ones": (DEEP, {"low": run(b"")}),
    "low bits of zeros from cells": (CLOSE, {"head": refine(5, 4, 4)}),
}

GOOD = {
    "base": (BASE, {}),
    "refine": (REFINE, {}),
    "cells": (CELLS, {}),
    "full": (FULL, {}),
    "64 lanes": (BASE, {"lanes": b"\6", "states": u32(1 << 16) * 64}),
    "highest exponent": (BASE, {"scales": ints(4 * 119 + 3)}),
    "lowest exponent": (BASE, {"scales": ints(4 * -110)}),
    "column class 3": (BASE, {"columns": ints(3)}),
    "longer varint": (BASE, {"words": b"\x80\x80\x80\x80\0"}),
    "all patched": (BASE, {"patches": b"\4" + b"\0abcd" * 4}),
    "last patched": (BASE, {"patches": b"\1\3" + b"\xff" * 4}),
    "close": (CLOSE, {}),
    "close from 15 halvings": (CLOSE, {"head": refine(1, 15, 15)}),
    "close with positions": (CLOSE, {"head": refine(1, 7, 15), "positions": run(bytes(4))}),
    "lowest cells": (CLOSE, {"head": refine(1, 15, 15), "exponents": ints(-110)}),
    "highest cells": (CELLS, {"head": refine(0, 1, 2), "exponents": ints(119),
                              "positions": run(b"\5")}),
    "8 halvings": (CELLS, {"head": refine(0, 0, 8), "positions": run(b"\xff\0\x80\x7f")}),
    "15 halvings in all": (CELLS, {"head": refine(0, 7, 15), "positions": run(bytes(4))}),
    "zeros 23": (REFINE, {"zeros": ints(23), "low": run(b""), "upper": run(b"")}),
    "zeros 16": (REFINE, {"zeros": ints(16), "low": run(b"")}),
    "zeros 18": (REFINE, {"zeros": ints(18), "low": run(b""), "upper": run(b"\xff\x0f")}),
    "zeros 13": (REFINE, {"zeros": ints(13), "low": run(b"\xff\x07")}),
    "zeros of rows": (REFINE, {"zeros": b"\2\0\0" + b"\1\0" + b"\3\0",
                               "low": run(b"\xff" * 4 + b"\xff" * 4)}),
    "every stream": (EVERY, {}),
    "named zeros": (EVERY, {"named": stream(2, 2), "positions": run(b""), "low": run(b""),
                            "upper": run(b"")}),
    "named zeros with upper bits": (
        EVERY,
        {"named": stream(2, 1), "coarse": stream(16, 3), "positions": run(b""), "low": run(b""),
         "upper": run(b"")},
    ),
    "zeros named by cells": (
        CELLS, {"head": refine(4, 4, 8), "positions": run(b"")},
    ),
    "zeros named by cells to exact": (CLOSE, {"head": refine(5, 4, 4), "low": run(b"")}),
    "upper bits": (EVERY, {"coarse": stream(16, 3), "positions": run(b"\xff")}),
    "upper bits alone": (
        CELLS,
        {"head": refine(8, 0, 2), "coarse": stream(16, 2), "positions": b""},
    ),
    "shifts": (EVERY, {"shifts": stream(14, 1)}),
    "far shifts": (EVERY, {"shifts": stream(14, 254), "upper": run(b"")}),
    "farthest shifts": (EVERY, {"shifts": stream(14, 255), "upper": run(b"")}),
    "shifts out of all bins": (
        EVERY,
        {"shifts": stream(14, 255), "upper": run(b""), "exponents": ints(119)},
    ),
    "deep": (DEEP, {}),
    "deep to the end": (DEEP, {"deep": run(bytes(6) + b"\xff" * 8)}),
    "deep that are not": (DEEP, {"deep": run(b"\x21\xf8" + b"\xff" * 3)}),
    "deep with zeros": (
        DEEP, {"zeros": ints(18), "low": run(b""), "deep": run(b"\x11\x11" + b"\xff" * 3)},
    ),
    "deep with nothing but zeros": (
        DEEP, {"zeros": ints(23), "low": run(b""), "deep": run(b"\x51\xf3")},
    ),
    "longer varints": (REFINE, {"deep": b"\x80\x80\x80\x80\0"}),
    "frequency of 12 bits": (BASE, {"tables": four(12, 0, 0)}),
    "frequencies that fit": (BASE, {"tables": four(12, 11, 10)}),
    "all 256 symbols": (
        BASE,
        {"tables": table((1, 1), (0, 8), (255, 8), (0, 8), lengths=(1,) * 255)},
    ),
}


def by_hand(parts: dict[str, bytes], change: dict[str, bytes]) -> bytes:
    assert set(change) <= set(parts)
    return b"".join({**parts, **change}.values())


@pytest.mark.parametrize("name", sorted(GOOD))
def test_limits_are_within(name: str) -> None:
    payload = by_hand(*GOOD[name])
    found = apply_all(HAND, payload)
    assert found is not None
    assert found == apply_oracle(HAND, payload)


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_is_refused(name: str) -> None:
    payload = by_hand(*BAD[name])
    for case in (HAND, ONES):
        assert apply_all(case, payload) is None
        assert apply_oracle(case, payload) is None


@pytest.mark.parametrize("name", sorted(BAD_OF_ZEROS))
def test_runs_of_other_lengths(name: str) -> None:
    payload = by_hand(*BAD_OF_ZEROS[name])
    assert apply_all(HAND, payload) is None
    assert apply_oracle(HAND, payload) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\0\1\1\4\0\0",
        b"\1\0\1\4\0\0",
        b"\0\0\2\4\0\0\0\0",
        b"\0\0\1\5\0\0",
        b"\0\0\1\4\3",
        b"\0\0\1\4\1\0\0\0",
        b"\0\0\1\4\0",
        b"\0\0\1\4\0\0\0",
    ],
)
def test_opaque_chunks_that_are_refused(payload: bytes) -> None:
    case = Case("opaque", b"", "I8", 1, ((4, 4),), bytes(4))
    assert apply_all(case, b"\0\0\1\4\0\x2a") == b"\x2a" * 4
    assert apply_all(case, payload) is None
    assert apply_oracle(case, payload) is None


@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(sorted(FAMILIES)),
    st.integers(0, 15),
    st.integers(0, 2**32 - 1),
)
def test_refinements_of_any_bytes(
    dtype: str, family: str, before: str, halved: int, seed: int
) -> None:
    """What no writer writes: fields without sense, largest steps, bytes that are no state."""
    f = FORMATS[dtype]
    rng = np.random.default_rng(seed)
    sample = Sample(dtype, family, ((90, 9), (33, 33), (5, 2)), seed)
    rows = Rows.of(list(sample.shapes))
    state = FAMILIES[before](rng, dtype, sample.elems)
    about = int(rng.integers(f.e_min, f.e_max + 1))
    spread = int(rng.choice([0, 3]))
    steps = np.clip(about + rng.integers(-spread, spread + 1, len(rows.lengths)), f.e_min, f.e_max)
    if rng.random() < 0.5:
        scales = core.row_scales(dtype, int(rng.integers(-300, 200)), sample.segments())
        steps = np.frombuffer(scales, "=i2").astype(np.int64) >> 2
    levels = [0, *range(halved + 1, min(halved + 8, 15) + 1)]
    sink = Sink([2, f.code])
    sink.u32(len(rows.lengths))
    sink.u32(sample.elems)
    write_refinement(
        sink, f, rows, sample.weights(), state, steps.tolist(),
        (halved, int(rng.choice(levels))), oracle.Choices(seed), False,
    )  # fmt: skip
    case = Case("any", bytes(sink), dtype, f.size, sample.shapes, f.store(state))
    assert apply_all(case, case.payload) is not None
    check_like_the_oracle(case, case.payload)
    for _ in range(4):
        check_like_the_oracle(case, flipped(case.payload, rng))
