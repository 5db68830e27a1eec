"""Payloads made by hand: each rule of SPEC.md 6.1 to 6.8 kept, and broken."""

from __future__ import annotations

import numpy as np
import pytest
from hand_made import (
    ABSENT,
    BASE,
    BRAIN,
    CELLED,
    CELLS,
    COARSE,
    DEEP,
    EXACT,
    FINER,
    FINER_CELLS,
    FULL,
    HALF,
    SHIFTED,
    SPARSE,
    VARINT_ENDLESS,
    VARINT_LONG,
    VARINT_MAX,
    Parts,
    counted,
    four,
    ints,
    run,
    stream,
    table,
    u32,
)
from hostile_chunks import Case, apply_all, apply_oracle
from oracle.floats import FORMATS
from oracle.wire import Bits


def broken(name: str, parts: Parts, *changes: dict[str, bytes]) -> dict[str, tuple[Parts, Parts]]:
    return {f"{name} {i}": (parts, change) for i, change in enumerate(changes)}


def runs(parts: Parts, name: str, field: str) -> dict[str, tuple[Parts, Parts]]:
    """A run that is too short, too long, far too long, or not there."""
    size = parts[field][0]
    values = [run(size + 1), VARINT_MAX, VARINT_LONG, VARINT_ENDLESS, b""]
    values += [run(size - 1)] if size else []
    return broken(f"{name}: {field}", parts, *({field: value} for value in values))


BAD: dict[str, tuple[Parts, Parts]] = {
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
    "a patch after a refinement": (EXACT, {"patches": b"\1\4" + bytes(4)}),
    "a patch after cells": (CELLS, {"patches": b"\1\4" + bytes(4)}),
    **broken("flags", EXACT, *({"flags": bytes([f])} for f in (17, 33, 65, 129, 255))),
    **broken("flags of cells", CELLS, *({"flags": bytes([f])} for f in (16, 128, 240))),
    "no halvings": (EXACT, {"mid": b"\0", "to": b"\0", "positions": b""}),
    "no positions from bins": (CELLS, {"mid": b"\0", "positions": b"", "finer": run(2)}),
    "no halvings to cells": (CELLS, {"from": b"\4", "positions": b""}),
    "nine bits of positions": (CELLS, {"mid": b"\x09", "to": b"\x09", "positions": run(5)}),
    "nine bits to floats": (EXACT, {"mid": b"\x09", "to": b"\x09", "positions": run(5)}),
    "256 bits of positions": (CELLS, {"mid": b"\xff", "to": b"\xff", "positions": run(128)}),
    "mid below from": (CELLED, {"mid": b"\3"}),
    "mid above from": (CELLED, {"mid": b"\5", "to": b"\5"}),
    "mid of bins from cells": (CELLS, {"from": b"\3", "positions": run(1)}),
    "to below mid": (EXACT, {"to": b"\3"}),
    "to 0": (EXACT, {"to": b"\0"}),
    "eight bits of finer positions": (CELLS, {"to": b"\x0c", "finer": run(4)}),
    "eight bits more of cells": (CELLED, {"to": b"\x0c", "finer": run(0)}),
    "to 16": (CELLED, {"from": b"\x0a", "mid": b"\x0a", "to": b"\x10", "finer": run(0)}),
    "from 16": (CELLED, {"from": b"\x10", "mid": b"\x10", "to": b"\x10"}),
    "far too many halvings": (CELLED, {"from": b"\xff", "mid": b"\xff", "to": b"\xff"}),
    "shifted from cells": (CELLED, {"flags": b"\3", "shifts": stream(14)}),
    "coarse from cells": (CELLED, {"flags": b"\x09", "coarse": stream(16)}),
    "coarse of one halving": (
        CELLS,
        {"flags": b"\x08", "mid": b"\1", "to": b"\1", "coarse": stream(16), "positions": run(0)},
    ),
    **broken("exponents", EXACT, *({"exponents": ints(e)} for e in (120, -111, 0x7FFF, -0x8000))),
    **broken("one exponent", EXACT, {"exponents": ints(0, 120)}, {"exponents": ints(-111, 0)}),
    **broken("exponents of cells", CELLED, {"exponents": ints(120)}, {"exponents": ints(-111)}),
    **broken("exponents of F16", HALF, {"exponents": ints(9)}, {"exponents": ints(-24)}),
    **broken("exponents of BF16", BRAIN, {"exponents": ints(120)}, {"exponents": ints(-111)}),
    "exponents of mode 3": (EXACT, {"exponents": b"\3\0\0"}),
    **broken("trailing", EXACT, {"trailing": ints(24)}, {"trailing": ints(-1)}, {"trailing": b""}),
    "trailing of one row": (EXACT, {"trailing": ints(0, 24)}),
    "trailing of mode 3": (EXACT, {"trailing": b"\3\0\0"}),
    "trailing of F16": (HALF, {"trailing": ints(11), "low": run(0)}),
    "trailing of BF16": (BRAIN, {"trailing": ints(8)}),
    "trailing of cells": (CELLS, {"trailing": ints(0)}),
    **broken("shifts", SHIFTED, {"shifts": b""}, {"shifts": stream(1)}),
    "shifts of 128 lanes": (SHIFTED, {"shifts": b"\7" + stream(14)[1:]}),
    "shifts without a flag": (EXACT, {"shifts": stream(14)}),
    **broken("zeros", SPARSE, *({"zeros": counted(4, s)} for s in (3, 4, 255))),
    **broken("count of zeros", SPARSE, *({"zeros": counted(n)} for n in (1, 3, 5))),
    "no zeros": (SPARSE, {"zeros": b"\0"}),
    "huge count of zeros": (SPARSE, {"zeros": VARINT_MAX + stream(1)}),
    "count of zeros beyond 32 bits": (SPARSE, {"zeros": VARINT_LONG + stream(1)}),
    "zeros without a flag": (EXACT, {"zeros": counted(4)}),
    "zeros of cells": (CELLED, {"flags": b"\5", "zeros": counted(4), "low": run(0)}),
    **broken("coarse", COARSE, {"coarse": b""}, {"coarse": stream(1)}),
    "coarse with all positions": (COARSE, {"positions": run(2)}),
    "coarse without a flag": (EXACT, {"coarse": stream(16)}),
    **broken("count of octaves", DEEP, *({"octaves": counted(n)} for n in (1, 3, 5))),
    "no octaves": (DEEP, {"octaves": b"\0"}),
    "huge count of octaves": (DEEP, {"octaves": VARINT_MAX + stream(1)}),
    "count of octaves beyond 32 bits": (DEEP, {"octaves": VARINT_LONG + stream(1)}),
    "octaves of nothing": (EXACT, {"octaves": counted(1)}),
    "octaves of nobody": (EXACT, {"octaves": stream(1)}),
    "octaves of cells": (CELLS, {"octaves": b"\0"}),
    **runs(EXACT, "exact", "positions"),
    **runs(EXACT, "exact", "low"),
    **runs(EXACT, "exact", "upper"),
    **runs(CELLS, "cells", "positions"),
    **runs(DEEP, "deep", "upper"),
    **runs(ABSENT, "absent", "positions"),
    **runs(ABSENT, "absent", "low"),
    **runs(ABSENT, "absent", "upper"),
    **runs(CELLED, "from cells", "low"),
    **runs(CELLED, "from cells", "upper"),
    **runs(COARSE, "coarse", "positions"),
    **runs(HALF, "F16", "low"),
    **runs(FINER, "exact", "finer"),
    **runs(FINER_CELLS, "cells", "finer"),
    **runs(CELLED | {"to": b"\5", "finer": run(0)}, "from cells", "finer"),
    "positions from cells": (CELLED, {"positions": run(0)}),
    "finer positions of none": (EXACT, {"finer": run(0)}),
    "a low plane of BF16": (BRAIN, {"low": run(0)}),
    "a low plane of cells": (CELLS, {"low": run(8)}),
    "upper fields of cells": (CELLS, {"upper": run(0)}),
    **runs(CELLED | {"trailing": ints(15, 14), "low": run(2)}, "rows", "low"),
    **runs(EXACT | {"trailing": ints(19), "low": run(0), "upper": run(1)}, "19 zeros", "upper"),
    "full from cells": (FULL, {"from'": b"\4", "positions'": b"", "upper'": run(0)}),
    "full with exponents": (FULL, {"to'": b"\4" + ints(0)}),
    "full of nine halvings": (FULL, {"mid'": b"\x09", "to'": b"\x09", "positions'": run(5)}),
    "full without a refinement": (BASE, {"kind": b"\3"}),
}  # fmt: skip

#: What is accepted, and what comes of it, of four zeros: calculated by hand.
GOOD: dict[str, tuple[Parts, Parts, float | None]] = {
    "base": (BASE, {}, 0.0),
    "64 lanes": (BASE, {"lanes": b"\6", "states": u32(1 << 16) * 64}, 0.0),
    "highest exponent": (BASE, {"scales": ints(4 * 119 + 3)}, 0.0),
    "lowest exponent": (BASE, {"scales": ints(4 * -110)}, 0.0),
    "column class 3": (BASE, {"columns": ints(3)}, 0.0),
    "longer varint": (BASE, {"words": b"\x80\x80\x80\x80\0"}, 0.0),
    "all patched": (BASE, {"patches": b"\4" + (b"\0" + np.float32(5.5).tobytes()) * 4}, 5.5),
    "last patched": (BASE, {"patches": b"\1\3" + b"\xff" * 4}, None),
    "frequency of 12 bits": (BASE, {"tables": four(12, 0, 0)}, 0.0),
    "frequencies that fit": (BASE, {"tables": four(12, 11, 10)}, 0.0),
    "all 256 symbols": (
        BASE,
        {"tables": table((1, 1), (0, 8), (255, 8), (0, 8), lengths=(1,) * 255)},
        0.0,
    ),
    "exact": (EXACT, {}, -14 / 32),
    "exact, all open bits set": (EXACT, {"low": run(8, 255), "upper": run(3, 255)}, -0.5 + 2**-25),
    "exact, patched": (
        EXACT,
        {"patches": b"\4" + (b"\0" + np.float32(5.5).tobytes()) * 4},
        5.5,
    ),
    "full": (FULL, {}, -14 / 32),
    "full to cells": (
        FULL,
        {"flags'": b"\0"} | dict.fromkeys(("trailing'", "octaves'", "low'", "upper'"), b""),
        -15 / 32,
    ),
    "cells": (CELLS, {}, -15 / 32),
    "cells, the highest position": (CELLS, {"positions": run(2, 255)}, 15 / 32),
    "one halving": (CELLS, {"mid": b"\1", "to": b"\1", "positions": run(1)}, -0.25),
    "eight halvings": (CELLS, {"mid": b"\x08", "to": b"\x08", "positions": run(4, 255)}, 255 / 512),
    "finer cells": (FINER_CELLS, {}, -63 / 128),
    "finer cells, the highest position": (FINER_CELLS, {"finer": run(1, 255)}, -57 / 128),
    "finer cells up to the seventh bit": (
        FINER_CELLS,
        {"to": b"\x0b", "finer": run(3)},
        -15 / 32 - 31 / 1024,
    ),
    "finer cells near zero": (
        FINER_CELLS,
        {"positions": run(2, 0x88), "to": b"\x0b", "finer": run(4)},
        2.0**-12,
    ),
    "finer cells to floats": (FINER, {}, -31 / 64),
    "finer cells, all open bits set": (
        FINER,
        {"low": run(8, 255), "upper": run(2, 255)},
        -0.5 + 2**-25,
    ),
    "zeros of cells stay": (
        CELLS,
        {"from": b"\x08", "mid": b"\x08", "to": b"\x0f", "positions": b"", "finer": run(0)},
        0.0,
    ),
    "longer run": (CELLS, {"positions": b"\x82\x80\x80\x80\0\0\0"}, -15 / 32),
    "bits that fill a run": (EXACT, {"upper": b"\3\0\0\xf0"}, -14 / 32),
    "highest step": (CELLS, {"exponents": ints(119)}, -15 * 2.0**114),
    "lowest step": (CELLS, {"exponents": ints(-110)}, -15 * 2.0**-115),
    "trailing 23": (EXACT, {"trailing": ints(23), "low": run(0), "upper": run(0)}, -0.25),
    "trailing 19": (EXACT, {"trailing": ints(19), "low": run(0), "upper": run(1, 255)}, -31 / 64),
    "trailing 13": (EXACT, {"trailing": ints(13), "low": run(2, 255)}, -0.4375 - 7 * 2**-12),
    "deep": (DEEP, {}, 1 / 32),
    "deep, three octaves down": (DEEP, {"octaves": counted(4, 3)}, 1 / 256),
    "deep, all octaves down": (DEEP, {"octaves": counted(4, 255)}, 0.0),
    "deep, to the smallest normal": (DEEP, {"octaves": counted(4, 121)}, 2.0**-126),
    "deep, to subnormals": (
        DEEP,
        {"octaves": counted(4, 122), "low": run(8, 255)},
        65535 * 2.0**-149,
    ),
    "sparse, but no zeros": (SPARSE, {}, -14 / 32),
    "absent": (ABSENT, {}, 0.0),
    "absent and negative": (ABSENT, {"zeros": counted(4, 2)}, -0.0),
    "absent in cells": (
        CELLS,
        {"flags": b"\4", "zeros": counted(4, 2), "positions": run(0)},
        -0.0,
    ),
    "absent from cells": (CELLED, {"flags": b"\5", "low": run(0)}, 0.0),
    "not shifted": (SHIFTED, {}, -14 / 32),
    "shifted up": (SHIFTED, {"shifts": stream(14, 2), "upper": run(2)}, 0.5),
    "shifted down": (SHIFTED, {"shifts": stream(14, 1), "upper": run(2)}, -1.4375),
    "shifted far up": (SHIFTED, {"shifts": stream(14, 254), "upper": run(0)}, 126.5),
    "shifted out of the bins": (SHIFTED, {"shifts": stream(14, 255), "upper": run(0)}, -128.0),
    "coarse": (COARSE, {}, -14 / 32),
    "coarse, deep": (
        COARSE,
        {"coarse": stream(16, 2), "octaves": counted(4), "upper": run(4)},
        1 / 32,
    ),
    "coarse of 255": (COARSE, {"coarse": stream(16, 255)}, 0.25),
    "coarse of two halvings": (
        CELLS,
        {
            "flags": b"\x08",
            "mid": b"\2",
            "to": b"\2",
            "coarse": stream(16, 1),
            "positions": run(0),
        },
        -1 / 8,
    ),
    "zeros of cells to floats": (CELLED, {}, 0.0),
    "zeros of cells have low bits": (CELLED, {"low": run(8, 255)}, 65535 * 2.0**-149),
    "from 15": (CELLED, {"from": b"\x0f", "mid": b"\x0f", "to": b"\x0f"}, 0.0),
    "rows of a low plane": (CELLED, {"trailing": ints(15, 14), "low": run(2)}, 0.0),
    "BF16": (BRAIN, {}, -14 / 32),
    "BF16, trailing 7": (BRAIN, {"trailing": ints(7), "upper": run(0)}, -0.25),
    "F16": (HALF, {}, -14 / 32),
    "F16, trailing 10": (HALF, {"trailing": ints(10), "low": run(0), "upper": run(0)}, -0.25),
    "F16, too small": (
        HALF,
        {
            "exponents": ints(-23),
            "mid": b"\x08",
            "to": b"\x08",
            "positions": run(4),
            "upper": run(0),
        },
        -0.0,
    ),
}  # fmt: skip
DTYPES = {f.code: name for name, f in FORMATS.items()}


def joined(parts: Parts, change: Parts) -> tuple[Case, bytes]:
    """A case of four zeros, and the payload."""
    assert set(change) <= set(parts)
    changed = {**parts, **change}
    dtype = DTYPES.get(parts["dtype"][0], "F32")
    item = FORMATS[dtype].size
    return Case("hand", b"", dtype, item, ((4, 2),), bytes(4 * item)), b"".join(changed.values())


def stored(dtype: str, *values: float) -> bytes:
    """Floats that the dtype holds exactly."""
    if dtype == "F16":
        return np.array(values, "<f2").tobytes()
    single = np.array(values, "<f4")
    return single.tobytes() if dtype == "F32" else single.view("<u2")[1::2].tobytes()


@pytest.mark.parametrize("name", GOOD)
def test_limits_are_within(name: str) -> None:
    parts, change, expected = GOOD[name]
    case, payload = joined(parts, change)
    found = apply_oracle(case, payload)
    assert found is not None
    if expected is not None:
        assert found == stored(case.dtype, *[expected] * 4)
    assert apply_all(case, payload) == found


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    case, payload = joined(*BAD[name])
    assert apply_oracle(case, payload) is None
    assert apply_all(case, payload) is None


def after(dtype: str, before: bytes, cols: int, parts: Parts) -> bytes | None:
    """A payload on other elements than four zeros."""
    item = FORMATS[dtype].size
    elems = len(before) // item
    case = Case("hand", b"", dtype, item, ((elems, cols),), before)
    counts = {"rows": u32(-(-elems // cols)), "elems": u32(elems)}
    payload = b"".join({**parts, **counts}.values())
    found = apply_oracle(case, payload)
    assert apply_all(case, payload) == found
    return found


def test_rows_without_fields_end_a_byte() -> None:
    """Low fields of one bit, of a row of zeros that are absent, of one bit."""
    change = {"flags": b"\5", "trailing": ints(15, 14, 15), "low": b"\2\1\1", "upper": run(1)}
    change["exponents"] = ints(-5, 0, -5)
    before = stored("F32", 1, 0, 1)
    found = after("F32", before, 1, CELLED | change)
    assert found == stored("F32", 1 + 2**-8, 0, 1 + 2**-8)
    assert after("F32", before, 1, CELLED | change | {"low": run(1)}) is None


def test_large_elements() -> None:
    """Beyond the bins: not moved by positions, shifts and coarse symbols; low bits are new."""
    values = (127.5, -127.5, np.inf, -np.inf)
    before = stored("F32", *values)
    guess = {"exponents": ints(1, 0)}  # 127.5 is odd in halves
    for parts in (
        CELLS | {"positions": run(2, 0x39)},
        CELLS | {"flags": b"\2", "shifts": stream(14, 5)},
        CELLS | {"flags": b"\x08", "coarse": stream(16, 3), "positions": run(1, 0x39)},
        CELLED
        | {"flags": b"\0", "to": b"\6", "finer": run(0)}
        | dict.fromkeys(("trailing", "octaves", "low", "upper"), b"")
        | {"exponents": ints(1 - 5, 0)},
        EXACT | {"upper": run(0)},
    ):
        parts = parts if parts["from"] == b"\4" else parts | guess
        assert after("F32", before, 2, parts) == before
    found = after("F32", before, 2, EXACT | guess | {"upper": run(0), "low": run(8, 255)})
    assert found == (np.frombuffer(before, "<u4") | 0xFFFF).astype("<u4").tobytes()
    below = np.nextafter(np.float32(127.5), np.float32(0))
    parts = CELLS | {"exponents": ints(17), "positions": run(2, 0x88)}
    found = after("F32", stored("F32", *[below] * 4), 2, parts)
    assert found == stored("F32", *[below + np.float32(1 / 32)] * 4)


def test_bits_of_a_nan_below_the_trailing_zeros_are_cut() -> None:
    before = np.full(4, 0x7FC00001, "<u4").tobytes()
    assert after("F32", before, 2, EXACT | {"upper": run(0)}) == stored("F32", *[np.nan] * 4)
    parts = EXACT | {"trailing": ints(23), "low": run(0), "upper": run(0)}
    assert after("F32", before, 2, parts) == stored("F32", *[np.inf] * 4)


def test_sums_that_are_rounded() -> None:
    """Bytes that are neither a bin's nor a cell's: to nearest in binary32, then toward zero."""
    halved = CELLS | {"mid": b"\1", "to": b"\1"}
    halved |= {"exponents": ints(23), "positions": run(1, 255)}
    before = np.full(4, 0x3FFFFFFF, "<u4").tobytes()
    assert after("F32", before, 2, halved) == stored("F32", *[2.25] * 4)
    small = HALF | dict.fromkeys(("trailing", "octaves", "low", "upper"), b"")
    small |= {"flags": b"\0", "mid": b"\1", "to": b"\1"}
    small |= {"exponents": ints(8 + 24), "positions": run(1)}
    finer = CELLS | {"from": b"\1", "mid": b"\1", "to": b"\2", "positions": b""}
    finer |= {"exponents": ints(23 - 2), "finer": run(1, 255)}
    assert after("F32", before, 2, finer) == stored("F32", *[2.125] * 4)
    before = stored("F16", *[2.0**-24] * 4)
    assert after("F16", before, 2, small) == stored("F16", *[-64.0] * 4)
    before = stored("BF16", *[-1.9921875] * 4)
    brain = halved | {"dtype": b"\3", "exponents": ints(7), "positions": run(1)}
    assert after("BF16", before, 2, brain) == stored("BF16", *[-2.234375] * 4)


def test_guesses_of_steps() -> None:
    """The lowest bit of the first elements of a row that are numbers, and not zero."""
    nan, least, rest = float("nan"), 2.0**-149, [0.0] * 24
    for start, before, guess in (
        (0, [0, -0.0, nan, np.inf, 0, 0, 0, 0, 0.5], 0),
        (0, [nan, 24, 0, np.inf, -48, 0, 0, 0, 0.5], 3),
        (0, [24, 0, 0, 0, 0, 0, 0, 0.25, 0.125], -2),
        (0, [-(2.0**100), 0], 100),
        (0, [3 * least, 1], -149),
        (0, [2.0**-126, 1], -126),
        (3, [24, 0], 7),
        (6, [1, 0, 0, 0, 0, 0, 0, 2, 0.5], 7),
        (7, [1, *rest, 0, 0, 0, 0, 0, 0, 0.25, 0.5], 6),
        (7, [1, *rest, 0, 0, 0, 0, 0, 0, 0, 0.5], 8),
        (3, [0, 0, 0, 0, 0, 0, 0, 0, 1], 0),
    ):
        head = {"from": bytes([start]), "mid": bytes([start or 1]), "to": bytes([start + 1])}
        if start:
            head |= {"positions": b"", "flags": b"\4"}
        for e in (119, 0, -110, 120, -111):
            parts = CELLS | head | {"exponents": ints(e - guess)}
            # Elements without open bits have no finer position.
            tried = [{"finer": run(n)} for n in (0, 1)] if start else [{"positions": run(2)}]
            tried[0] |= {} if len(before) > 2 or start else {"positions": run(1)}
            found = [after("F32", stored("F32", *before), 99, parts | t) for t in tried]
            assert (found != [None] * len(tried)) == (-110 <= e <= 119), (before, e)
    # Each row for itself, also a short one.
    parts = CELLS | {"mid": b"\1", "to": b"\1", "positions": run(1)}
    for last in (117, 118):
        parts["exponents"] = ints(119, last)
        found = [after("F32", stored("F32", 1, 2, 4), 2, parts)]
        assert (found == [None]) == (last == 118)


def test_contexts_of_signed_bins() -> None:
    """Coarse symbols 0 to 3 in contexts of their own: bins -8, -7, 0 and 7 or more."""
    tables = Bits()
    for context in range(16):
        symbol = {0: 1, 7: 2, 14: 3}.get(context, 0)
        for value, width in ((1, 1), (0, 1), (symbol, 8), (0, 8)):
            tables.put(value, width)
    coarse = b"\0" + tables.to_bytes() + u32(1 << 16) + b"\0"
    parts = CELLS | {"flags": b"\x08", "mid": b"\2", "to": b"\2", "coarse": coarse}
    parts |= {"positions": run(0)}
    found = after("F32", stored("F32", -8, -7, 0, 7, 100, 3), 6, parts)
    assert found == stored("F32", -8.125, -7.125, 0.125, 7.375, 100.375, 2.625)
    # 0.49999997 plus a half is 1 in binary32, but the bin is 0.
    parts |= {"exponents": ints(25)}
    found = after("F32", np.full(4, 0x3EFFFFFF, "<u4").tobytes(), 4, parts)
    assert found == stored("F32", *[np.float32(0.49999997) + np.float32(0.125)] * 4)


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
