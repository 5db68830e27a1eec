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
from oracle.rans import PLAIN, Table, write_table
from oracle.samples import Sample
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


def chain(sample: Sample, wanted: list[int], name: str, codes: bool = False) -> Iterator[Case]:
    """Cases of a sample's base and refinements."""
    segments = sample.segments()
    scales = core.row_scales(sample.dtype, -160, segments)
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
REFINE = {
    **{name: BASE[name] for name in ("kind", "dtype", "rows", "elems")},
    "kind": b"\2",
    "head": bytes([0, 20, 20, 0]),
    "exponents": ints(0),
    "zeros": ints(0),
    **STREAM,
    "raw": b"\x0a" + bytes(10),
    "patches": b"\0",
}
CELLS = {**REFINE, "head": bytes([2, 0, 0, 4]), "zeros": b"", "raw": b"\0"}
FULL = {**BASE, "kind": b"\3"}
FULL["patches"] += b"".join(
    v for k, v in REFINE.items() if k not in ("kind", "dtype", "rows", "elems", "exponents")
)
HAND = Case("hand", b"", "F32", 4, ((4, 2),), bytes(16))
#: The same where context 0, of zeros, does not occur.
ONES = Case("ones", b"", "F32", 4, ((4, 2),), np.ones(4, "<f4").tobytes())

VARINT_MAX = b"\xff\xff\xff\xff\x0f"
VARINT_LONG = b"\xff\xff\xff\xff\x7f"
VARINT_ENDLESS = b"\x80" * 5 + b"\0"


def table(*fields: tuple[int, int], lengths: tuple[int, ...] = (), kind: str = "base") -> bytes:
    """The tables of a stream of which one has these fields after its flag, the others are absent.

    In a base it is the table of context 1, which does not occur; in a refinement that of context
    0. ``lengths`` are bit lengths of frequencies whose further bits are zeros.
    """
    out = Bits()
    out.put(0, 1 if kind == "base" else 0)
    out.put(1, 1)
    for value, width in fields:
        out.put(value, width)
    before = 6
    for length in lengths:
        out.unary(zigzag(length - before))
        before = length
        out.put(0, min(max(length - 1, 0), 3))
    out.put(0, 14 if kind == "base" else 13)
    return out.to_bytes()


def four(*lengths: int) -> bytes:
    """A fine table of symbols 0 to 3 with these bit lengths of 1, 2 and 3."""
    return table((0, 1), (0, 8), (3, 8), (0, 8), lengths=lengths)


def pairs(*fields: tuple[int, int], lengths: tuple[int, ...] = ()) -> bytes:
    return table(*fields, lengths=lengths, kind="refine")


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
    "head flag 16": (REFINE, {"head": bytes([16, 20, 20, 0])}),
    "raw above zero": (REFINE, {"head": bytes([0, 21, 20, 0])}),
    "width 26": (REFINE, {"head": bytes([0, 20, 26, 0]), "raw": b"\x0a" + bytes(10) + b"\0"}),
    "width 26 both": (REFINE, {"head": bytes([0, 26, 26, 0]), "raw": b"\x0d" + bytes(13)}),
    "width 255": (REFINE, {"head": bytes([0, 255, 255, 0])}),
    "exact with cells": (REFINE, {"head": bytes([0, 20, 20, 1])}),
    "cells and shifted": (REFINE, {"head": bytes([5, 20, 20, 0])}),
    "refine exponent too high": (REFINE, {"exponents": ints(120)}),
    "refine exponent too low": (REFINE, {"exponents": ints(-111)}),
    "cells' exponent too low": (REFINE, {"head": bytes([1, 20, 20, 0]), "exponents": ints(-126)}),
    "zeros 24": (REFINE, {"zeros": ints(24)}),
    "zeros -1": (REFINE, {"zeros": ints(-1)}),
    "raw too short": (REFINE, {"raw": b"\x09" + bytes(9)}),
    "raw too long": (REFINE, {"raw": b"\x0b" + bytes(11)}),
    "huge raw": (REFINE, {"raw": VARINT_MAX}),
    "no upper part": (REFINE, {"head": bytes([0, 20, 21, 0])}),
    "upper part too long": (
        REFINE,
        {"head": bytes([0, 20, 21, 0]), "raw": b"\x0a" + bytes(10) + b"\1\0"},
    ),
    "a pair takes an odd rest": (
        REFINE,
        {"tables": pairs((0, 1), (0, 8), (2, 8), (2, 8), lengths=(1, 0))},
    ),
    "pairs that begin in the middle": (REFINE, {"tables": pairs((0, 1), (1, 8), (0, 8))}),
    "pairs beyond 256 symbols": (
        REFINE,
        {"tables": pairs((0, 1), (0, 8), (129, 8), (129, 8), lengths=(0,) * 129)},
    ),
    "table of another symbol": (REFINE, {"tables": table((0, 1), (7, 8), (0, 8), kind="refine")}),
    "cells without halvings": (CELLS, {"head": bytes([2, 0, 0, 0])}),
    "16 halvings": (CELLS, {"head": bytes([2, 0, 0, 16])}),
    "cells with other widths": (CELLS, {"head": bytes([2, 0, 1, 4])}),
    "cells of cells too low": (CELLS, {"head": bytes([3, 0, 0, 4]), "exponents": ints(-122)}),
    "full from cells": (FULL, {"patches": FULL["patches"][:1] + b"\1" + FULL["patches"][2:]}),
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
    "width 25": (REFINE, {"head": bytes([0, 25, 25, 0]), "raw": b"\x0d" + bytes(13)}),
    "upper part": (REFINE, {"head": bytes([0, 20, 21, 0]), "raw": b"\x0a" + bytes(10) + b"\0"}),
    "zeros 23": (REFINE, {"zeros": ints(23), "raw": b"\0"}),
    "from cells": (REFINE, {"head": bytes([1, 20, 20, 0]), "exponents": ints(-125)}),
    "no fields for zeros": (REFINE, {"head": bytes([8, 20, 20, 0]), "raw": b"\0"}),
    "15 halvings": (CELLS, {"head": bytes([2, 0, 0, 15])}),
    "cells of cells": (CELLS, {"head": bytes([3, 0, 0, 4]), "exponents": ints(-121)}),
    "frequency of 12 bits": (BASE, {"tables": four(12, 0, 0)}),
    "frequencies that fit": (BASE, {"tables": four(12, 11, 10)}),
    "all 256 symbols": (
        BASE,
        {"tables": table((1, 1), (0, 8), (255, 8), (0, 8), lengths=(1,) * 255)},
    ),
    "a pair takes an even rest": (
        REFINE,
        {"tables": pairs((0, 1), (0, 8), (2, 8), (0, 8), lengths=(0, 0))},
    ),
    "128 pairs": (
        REFINE,
        {"tables": pairs((0, 1), (0, 8), (128, 8), (0, 8), lengths=(0,) * 128)},
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


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@pytest.mark.parametrize("exact", [False, True])
def test_cells_that_no_writer_names(dtype: str, exact: bool) -> None:
    """Largest steps, symbols and fields at once: nothing overflows, and all agree."""
    f = FORMATS[dtype]
    rng = np.random.default_rng(9)
    for _ in range(12):
        head = bytes([0, 25, 25, 0]) if exact else bytes([int(rng.integers(2)) + 2, 25, 25, 15])
        e = int(rng.choice([f.e_max, f.e_max - 1, f.e_min, 0]))
        sink = Sink([2, f.code])
        sink.u32(1)
        sink.u32(4)
        sink += head + ints(e) + (ints(int(rng.choice([0, f.mant]))) if exact else b"")
        sink += b"\0"
        tables = Bits()
        for context in range(14):
            layout = "paired" if context == 0 and not head[0] & 1 else PLAIN
            top = int(rng.choice([0, 1, 100, 128 if layout == "paired" else 255]))
            listed = tuple([0] * top + [2048 if layout == "paired" and top > 1 else 4096])
            table_of = Table(False, 0, top, listed)
            write_table(tables, table_of)
        sink += tables.to_bytes()
        # One bit per symbol at most: the lane starts with more than it needs and is checked at
        # the end, so only tables of one symbol come through; the others are refused alike.
        sink += u32(1 << 16) + b"\0"
        tz = f.mant if exact and sink[13] else 0
        fields = rng.bytes(-(-4 * max(25 - tz, 0) // 8))
        sink.varint(len(fields))
        sink += fields + b"\0"
        before = f.store(rng.integers(0, 2 * f.sign, 4))
        case = Case("cells", b"", dtype, f.size, ((4, 4),), before)
        check_like_the_oracle(case, bytes(sink))
