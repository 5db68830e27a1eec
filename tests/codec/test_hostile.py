"""Chunks from strangers: refused or decoded, on every instruction set alike, and nothing else.

Payloads and tensors lie right before pages that cannot be touched, so a read or write that goes
too far ends the process. What is accepted must be what the oracle accepts, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hostile_chunks import Case, apply_all, check_like_the_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.floats import FORMATS
from oracle.refine import Head
from oracle.refining import Refining, Wild, refinings
from oracle.samples import Sample

from p2u.codec import core
from p2u.errors import FormatError


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
        out += chain(Sample(dtype, "normal", shapes, 2), [3, 5, 0], f"{dtype}-shifted", codes=True)
        out += chain(Sample(dtype, "sparse", shapes, 3), [2, 0], f"{dtype}-sparse")
        out += chain(Sample(dtype, "dead", shapes, 5), [0], f"{dtype}-dead")
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
@pytest.mark.timeout(1800)
@given(st.sampled_from(SMALL), st.integers(0, 2**63 - 1))
def test_fuzz_like_the_oracle(case: Case, seed: int) -> None:
    check_like_the_oracle(case, flipped(case.payload, np.random.default_rng(seed)))


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@settings(max_examples=20_000)
@given(st.sampled_from(SMALL + LARGE), st.integers(0, 2**63 - 1))
def test_fuzz_twins(case: Case, seed: int) -> None:
    apply_all(case, flipped(case.payload, np.random.default_rng(seed)))


def check_any_fields(r: Refining, seed: int) -> None:
    """Valid refinements that no writer makes, of bytes that may be no state."""
    sample = r.sample
    before = r.f.store(r.previous())
    case = Case("any", b"", sample.dtype, sample.item, sample.shapes, before)
    payload = r.payload(Wild(seed))
    assert apply_all(case, payload) is not None
    check_like_the_oracle(case, payload)


@given(refinings, st.integers(0, 2**32 - 1))
def test_any_fields_on_any_bytes(r: Refining, seed: int) -> None:
    check_any_fields(r, seed)


#: Heads of all flags, each with the least and the most halvings that it can have.
EXTREMES = [Head(0, 0, 8, 8), Head(1, 0, 1, 1), Head(7, 0, 4, 5), Head(10, 0, 2, 9)]
EXTREMES += [Head(15, 0, 8, 15), Head(0, 8, 8, 15), Head(4, 1, 1, 2), Head(1, 15, 15, 15)]
EXTREMES += [Head(5, 3, 3, 7)]


@pytest.mark.parametrize("head", EXTREMES, ids=repr)
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_any_fields_of_large_chunks(dtype: str, head: Head) -> None:
    """Several blocks of vectors, rows that end within them, and a few elements at the end."""
    for number, before in enumerate(("noise", "state")):
        sample = Sample(dtype, "special", ((4099, 130), (77, 7), (2500, 2500)), number)
        check_any_fields(Refining(sample, head, before, [None, -6][number], number), number)


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@given(refinings, st.integers(0, 2**32 - 1))
def test_fuzz_any_fields(r: Refining, seed: int) -> None:
    check_any_fields(r, seed)


def test_errors_say_at_which_part() -> None:
    weights = np.random.default_rng(0).normal(0, 0.05, 2000).astype("<f4")
    segments = [core.Segment(weights, 2000, 100)]
    scales = core.row_scales("F32", -60, segments)
    payloads = core.encode("F32", segments, scales, [4, 0]).payloads
    memory = np.zeros_like(weights)
    target = [core.Segment(memory, 2000, 100)]

    def refused(payload: bytes) -> str:
        before = memory.copy()
        with pytest.raises(FormatError) as error:
            core.apply(payload, "F32", 4, target)
        memory[:] = before
        return str(error.value)

    assert "chunk is malformed (header): it ends" in refused(payloads[0][:5])
    assert "(symbols): it ends" in refused(payloads[0][:-100])
    assert "(bytes behind the last part): a field" in refused(payloads[0] + b"\0")
    core.apply(payloads[0], "F32", 4, target)
    assert "(positions): it ends" in refused(payloads[1][:-100])
    core.apply(payloads[1], "F32", 4, target)
    assert "(upper fields): it ends" in refused(payloads[2][:-100])
    core.apply(payloads[2], "F32", 4, target)
    assert (memory.view("u4") == weights.view("u4")).all()
