"""Chunks from one version to another of elements without levels."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.rans import Log
from oracle.samples import joined

from p2u.codec import core
from p2u.errors import FormatError, UsageError

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]
CHANGES = ["same", "few", "nibbles", "bits", "plane", "noise"]

cases = st.tuples(
    st.sampled_from([1, 2, 3, 8, 16]),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.sampled_from(CHANGES),
    st.integers(0, 2**32 - 1),
)


def versions(item: int, elems: list[int], change: str, seed: int) -> tuple[list[bytes], ...]:
    """Old and new bytes of segments."""
    rng = np.random.default_rng(seed)
    n = sum(elems) * item
    old = np.clip(rng.normal(128, rng.choice([3, 40]), n), 0, 255).astype(np.uint8)
    new = old.copy()
    at = rng.random(n) < 0.05
    if change == "few":
        new[at] += rng.choice(np.array([1, 255], np.uint8), int(at.sum()))
    elif change == "nibbles":
        new = (old & 0xF0) | ((old + rng.integers(0, 2, n, np.uint8)) & 0x0F)
    elif change == "bits":
        new[at] ^= 1 << 6
    elif change == "plane":
        new[item - 1 :: item] = 9
    elif change == "noise":
        new = rng.integers(0, 256, n, np.uint8)
    ends = np.cumsum(elems)[:-1] * item
    return tuple([p.tobytes() for p in np.split(v, ends)] for v in (old, new))


def segments(parts: list[bytes], item: int) -> list[core.Segment]:
    return [core.Segment(bytearray(p), len(p) // item, 1) for p in parts]


@given(cases, st.integers(0, 40))
def test_the_new_version_is_exact(case: tuple[int, list[int], str, int], stride: int) -> None:
    item = case[0]
    old, new = versions(*case)
    payload = core.encode_opaque_delta(item, segments(new, item), old, stride=stride)
    size = sum(map(len, new))
    assert len(payload) <= size + 12 + 2 * (stride or item)
    for isa in TWINS:
        again = core.encode_opaque_delta(item, segments(new, item), old, isa, stride=stride)
        assert again == payload
        beside = segments([bytes(len(p)) for p in old], item)
        core.apply(payload, "I8", item, beside, isa, sources=old)
        assert joined(beside) == b"".join(new)
    within = segments(old, item)
    core.apply(payload, "I8", item, within)
    assert joined(within) == b"".join(new)


@pytest.mark.slow
@given(cases, st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_the_oracle_agrees(case: tuple[int, list[int], str, int], stride: int, seed: int) -> None:
    item = case[0]
    old, new = versions(*case)
    payload = core.encode_opaque_delta(item, segments(new, item), old, stride=stride)
    log: Log = []
    assert oracle.decode_chunk(payload, "I8", item, segments(old, item), log) == new
    replay = oracle.Replay(log)
    assert oracle.encode_opaque_delta(item, segments(new, item), old, replay) == payload
    assert replay.used_up()
    own = oracle.encode_opaque_delta(item, segments(new, item), old, oracle.Choices(seed))
    for isa in TWINS:
        memory = segments(old, item)
        core.apply(own, "I8", item, memory, isa)
        assert joined(memory) == b"".join(new)


@pytest.mark.parametrize("change", CHANGES)
def test_large_chunks(change: str) -> None:
    old, new = versions(3, [50_000, 7], change, 5)
    payload = core.encode_opaque_delta(3, segments(new, 3), old, stride=18)
    for isa in TWINS:
        memory = segments(old, 3)
        core.apply(payload, "Q8_0", 3, memory, isa)
        assert joined(memory) == b"".join(new)
    if change in ("few", "nibbles", "bits"):
        # Some 0.3 bits say which bytes changed, and 1 whether a nibble did; the rest are tables.
        assert len(payload) < {"few": 0.065, "bits": 0.09, "nibbles": 0.17}[change] * 3 * 50_007


def attempt(
    payload: bytes, item: int, old: list[bytes], new: list[bytes]
) -> tuple[list[bytes] | None, list[bytes] | None]:
    """What the core makes of a payload, everywhere alike, and what the oracle does."""
    found: list[list[bytes] | None] = []
    for isa in TWINS:
        memory = segments(old, item)
        try:
            core.apply(payload, "I8", item, memory, isa)
            found.append([bytes(s.mem) for s in memory])
        except FormatError:
            found.append(None)
    assert all(f == found[0] for f in found)
    try:
        return found[0], oracle.decode_chunk(payload, "I8", item, segments(old, item))
    except oracle.Malformed:
        return found[0], None


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_hostile_payloads(change: str) -> None:
    """Cut at every byte, and every bit of the beginning and some of the rest turned."""
    old, new = versions(2, [150, 3], change, 6)
    payload = core.encode_opaque_delta(2, segments(new, 2), old)
    assert attempt(payload, 2, old, new) == (new, new)
    for size in range(len(payload)):
        assert attempt(payload[:size], 2, old, new) == (None, None)
    assert attempt(payload + b"\0", 2, old, new) == (None, None)
    rng = np.random.default_rng(7)
    for place in [*range(8 * 30), *rng.integers(0, 8 * len(payload), 40).tolist()]:
        if place < 8 * len(payload):
            out = bytearray(payload)
            out[place // 8] ^= 1 << place % 8
            found, expected = attempt(bytes(out), 2, old, new)
            assert found == expected


def test_arguments() -> None:
    segment = core.Segment(bytearray(12), 6, 3)
    for item, sources, stride in (
        (2, [bytes(11)], 0),
        (2, [], 0),
        (2, [None], 0),
        (17, [bytes(12)], 0),
        (2, [bytes(12)], 257),
    ):
        with pytest.raises(UsageError):
            core.encode_opaque_delta(item, [segment], sources, stride=stride)
    payload = core.encode_opaque_delta(2, [segment], [bytes(12)])
    with pytest.raises(FormatError):
        core.apply(payload, "I16", 2, [segment], sources=[bytes(13)])
