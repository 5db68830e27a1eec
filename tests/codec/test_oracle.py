"""The core and the oracle of SPEC.md agree bit for bit, in both directions."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.floats import FORMATS
from oracle.rans import Log
from oracle.refine import EXACT
from oracle.refining import Refining, refinings
from oracle.samples import LEVELS, Sample, joined, samples

from p2u.codec import core

levels = st.sampled_from(LEVELS)


def encode(
    sample: Sample, wanted: list[int], offset: int, random_codes: bool, full: bool = False
) -> tuple[bytes, core.Encoded]:
    """Scales and payloads by the core."""
    segments = sample.segments()
    scales = core.row_scales(sample.dtype, offset, segments)
    codes = sample.codes() if random_codes else None
    done = core.encode(sample.dtype, segments, scales, wanted, codes=codes, full=full)
    return scales, done


@given(samples, levels, st.integers(-200, 100), st.booleans())
def test_the_oracle_reads_what_the_core_writes(
    sample: Sample, wanted: list[int], offset: int, random_codes: bool
) -> None:
    _, done = encode(sample, wanted, offset, random_codes)
    state = sample.blank()
    for payload in done.payloads:
        expected = oracle.decode_chunk(payload, sample.dtype, sample.item, state)
        core.apply(payload, sample.dtype, sample.item, state)
        assert [bytes(s.mem) for s in state] == expected
    if wanted[-1] == 0:
        assert joined(state) == joined(sample.segments())


@given(samples, levels, st.integers(-200, 100), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_core_reads_what_the_oracle_writes(
    sample: Sample, wanted: list[int], offset: int, random_codes: bool, seed: int
) -> None:
    segments = sample.segments()
    scales = core.row_scales(sample.dtype, offset, segments)
    codes = np.frombuffer(sample.codes(), "=i2").astype(np.int64) if random_codes else None
    choices = [oracle.Choices(seed + i) for i in range(len(wanted) + 1)]
    payloads = oracle.encode(
        sample.dtype, segments, np.frombuffer(scales, "=i2").tolist(), wanted, choices, codes
    )
    state = sample.blank()
    for payload in payloads:
        expected = oracle.decode_chunk(payload, sample.dtype, sample.item, state)
        core.apply(payload, sample.dtype, sample.item, state)
        assert [bytes(s.mem) for s in state] == expected
    if wanted[-1] == 0:
        assert joined(state) == joined(segments)


@given(refinings, st.integers(0, 2**32 - 1))
def test_the_core_refines_any_bytes_like_the_oracle(r: Refining, seed: int) -> None:
    """States, other codes, other floats and noise, under every head; exact if it says so."""
    payload = r.payload(oracle.Choices(seed))
    state = r.memory(r.previous())
    expected = oracle.decode_chunk(payload, r.sample.dtype, r.sample.item, state)
    core.apply(payload, r.sample.dtype, r.sample.item, state)
    assert [bytes(s.mem) for s in state] == expected
    if r.head.has(EXACT):
        assert joined(state) == joined(r.sample.segments())


@given(samples, levels, st.integers(-200, 100), st.booleans())
def test_the_oracle_repeats_the_cores_bytes(
    sample: Sample, wanted: list[int], offset: int, random_codes: bool
) -> None:
    scales, done = encode(sample, wanted, offset, random_codes)
    state = sample.blank()
    choices = []
    for payload in done.payloads:
        log: Log = []
        oracle.decode_chunk(payload, sample.dtype, sample.item, state, log)
        core.apply(payload, sample.dtype, sample.item, state)
        choices.append(oracle.Replay(log))
    codes = np.frombuffer(sample.codes(), "=i2").astype(np.int64) if random_codes else None
    again = oracle.encode(
        sample.dtype,
        sample.segments(),
        np.frombuffer(scales, "=i2").tolist(),
        wanted,
        choices,
        codes,
    )
    assert again == done.payloads
    assert all(c.used_up() for c in choices)


@given(samples, st.integers(-200, 100), st.booleans(), st.integers(0, 2**32 - 1))
def test_full_chunks(sample: Sample, offset: int, random_codes: bool, seed: int) -> None:
    scales, done = encode(sample, [0], offset, random_codes, full=True)
    weights = joined(sample.segments())
    log: Log = []
    (payload,) = done.payloads
    parts = oracle.decode_chunk(payload, sample.dtype, sample.item, sample.blank(), log)
    assert b"".join(parts) == weights
    codes = np.frombuffer(sample.codes(), "=i2").astype(np.int64) if random_codes else None
    rows = np.frombuffer(scales, "=i2").tolist()
    segments = sample.segments()
    replay = oracle.Replay(log)
    assert oracle.encode(sample.dtype, segments, rows, [], [replay], codes, full=True) == [payload]
    own = oracle.encode(sample.dtype, segments, rows, [], [oracle.Choices(seed)], codes, full=True)
    state = sample.blank()
    core.apply(own[0], sample.dtype, sample.item, state)
    assert joined(state) == weights


@pytest.mark.parametrize("family", ["normal", "sparse", "lognormal", "noise"])
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_sixty_four_lanes(dtype: str, family: str) -> None:
    """Chunks large enough for all lanes and more than one block."""
    sample = Sample(dtype, family, ((16000, 100), (450, 450)), 7)
    _, done = encode(sample, [4, 0], -160, family == "normal")
    state = sample.blank()
    for payload in done.payloads:
        log: Log = []
        expected = oracle.decode_chunk(payload, dtype, sample.item, state, log)
        core.apply(payload, dtype, sample.item, state)
        assert [bytes(s.mem) for s in state] == expected
        if payload[0] == 1:
            assert max(v for name, v in log if name == "lanes") == 6
    assert joined(state) == joined(sample.segments())


@given(
    st.sampled_from([1, 2, 3, 4, 8, 16]),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.sampled_from([0, 3, 255]),
    st.integers(0, 2**32 - 1),
)
def test_opaque_chunks(item: int, elems: list[int], most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    segments = [
        core.Segment(rng.integers(0, most + 1, n * item, np.uint8).tobytes(), n, 1) for n in elems
    ]
    weights = joined(segments)
    payload = core.encode_opaque(item, segments).payloads[0]
    log: Log = []
    assert b"".join(oracle.decode_chunk(payload, "I8", item, segments, log)) == weights
    assert oracle.encode_opaque(item, segments, oracle.Replay(log)) == payload
    own = oracle.encode_opaque(item, segments, oracle.Choices(seed))
    state = [core.Segment(bytearray(n * item), n, 1) for n in elems]
    core.apply(own, "I8", item, state)
    assert joined(state) == weights
