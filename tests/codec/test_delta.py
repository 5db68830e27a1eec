"""Chunks from one version of floats to another: round trips, twins, the oracle, hostile bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.delta import predict
from oracle.floats import FORMATS, Ints
from oracle.guard import Guarded
from oracle.rans import Log
from oracle.samples import FAMILIES, Sample, bits_of, joined, samples

from p2u.codec import core
from p2u.errors import FormatError, UsageError

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]
ROOM_IN, ROOM_OUT, ROOM_FROM = Guarded(1 << 20), Guarded(1 << 20), Guarded(1 << 20)

DELTA, GAPS = 4, 7
CHANGES = ["same", "few", "steps", "dense", "others", "a run"]


@dataclass(frozen=True)
class Pair:
    """Two versions of a chunk's weights."""

    sample: Sample
    #: The parent's dtype, and what the new version did to it.
    source: str
    change: str

    def sources(self) -> list[bytes]:
        old = FORMATS[self.source]
        return self._split(old.store(self.old()), old.size)

    def _split(self, data: bytes, item: int) -> list[bytes]:
        out, at = [], 0
        for elems, _ in self.sample.shapes:
            out.append(data[at : at + elems * item])
            at += elems * item
        return out

    def old(self) -> Ints:
        weights = self.sample.weights()
        if self.source == self.sample.dtype:
            return weights
        make = FAMILIES[self.sample.family]
        return make(self.sample.rng, self.source, self.sample.elems)

    def new(self) -> bytes:
        f, rng = FORMATS[self.sample.dtype], np.random.default_rng(self.sample.seed + 1)
        old, n = self.old(), self.sample.elems
        if self.source != self.sample.dtype:
            old = predict(f, FORMATS[self.source], old)
        spread = int(rng.choice([1, 3, 1000, f.sign // 7]))
        by = rng.integers(-spread, spread + 1, n)
        if self.change == "same":
            by *= 0
        elif self.change == "few":
            by *= rng.random(n) < 0.02
        elif self.change == "a run":
            by *= np.abs(np.arange(n) - rng.integers(n)) < 100
        new = (old + by) % (2 * f.sign)
        if self.change == "others":
            new = FAMILIES[str(rng.choice(list(FAMILIES)))](rng, self.sample.dtype, n)
        if self.change == "steps":
            value = f.value(np.minimum(old & (f.sign - 1), f.inf - 1))
            new = bits_of(self.sample.dtype, value + rng.normal(0, 2e-3, n))
        return f.store(new)

    def segments(self) -> list[core.Segment]:
        parts = self._split(self.new(), self.sample.item)
        shapes = self.sample.shapes
        return [core.Segment(p, e, c) for p, (e, c) in zip(parts, shapes, strict=True)]

    def encode(self, wish: int = core.AUTO) -> bytes:
        sources = self.sources()
        return core.encode_delta(self.sample.dtype, self.segments(), sources, self.source, wish)

    def apply(self, payload: bytes, wish: int = core.AUTO) -> bytes:
        memory = self.sample.blank()
        core.apply(
            payload, self.sample.dtype, self.sample.item, memory, wish, sources=self.sources()
        )
        return joined(memory)

    def oracle(self, payload: bytes, log: Log | None = None) -> bytes:
        parts = oracle.decode_chunk(
            payload,
            self.sample.dtype,
            self.sample.item,
            self.sample.blank(),
            log,
            self.sources(),
        )
        return b"".join(parts)


pairs = st.builds(
    Pair, samples, st.sampled_from(sorted(FORMATS)), st.sampled_from(CHANGES)
) | st.builds(lambda s, c: Pair(s, s.dtype, c), samples, st.sampled_from(CHANGES))

LARGE = [
    Pair(Sample(dtype, family, ((40_000, 300), (5000, 77), (20_001, 20_001)), 11), source, change)
    for dtype, source in [("BF16", "BF16"), ("F16", "F16"), ("F32", "F32"), ("BF16", "F32")]
    for family in ("normal", "special")
    for change in CHANGES
]


@given(pairs)
def test_the_new_version_is_exact(pair: Pair) -> None:
    payload = pair.encode()
    for isa in TWINS:
        assert pair.encode(isa) == payload
        assert pair.apply(payload, isa) == pair.new()


@pytest.mark.parametrize("pair", LARGE, ids=repr)
def test_large_chunks(pair: Pair) -> None:
    payload = pair.encode()
    for isa in TWINS:
        assert pair.encode(isa) == payload
        assert pair.apply(payload, isa) == pair.new()


@given(samples, st.sampled_from(CHANGES))
def test_in_place(sample: Sample, change: str) -> None:
    pair = Pair(sample, sample.dtype, change)
    payload = pair.encode()
    memory = [
        core.Segment(bytearray(part), elems, cols)
        for part, (elems, cols) in zip(pair.sources(), sample.shapes, strict=True)
    ]
    some = [s.mem if i % 2 else None for i, s in enumerate(memory)]
    sources = [None, some][sample.seed % 2]
    core.apply(payload, sample.dtype, sample.item, memory, sources=sources)
    assert joined(memory) == pair.new()


@given(pairs)
def test_the_oracle_reads_and_repeats_what_the_core_writes(pair: Pair) -> None:
    payload = pair.encode()
    log: Log = []
    assert pair.oracle(payload, log) == pair.new()
    replay = oracle.Replay(log)
    dtype, sources = pair.sample.dtype, pair.sources()
    if payload[0] == GAPS:
        again = oracle.encode_gaps(dtype, pair.segments(), sources, replay)
    else:
        again = oracle.encode_delta(dtype, pair.segments(), sources, pair.source, replay)
    assert again == payload
    assert replay.used_up()


@given(pairs, st.integers(0, 2**32 - 1))
def test_the_core_reads_what_the_oracle_writes(pair: Pair, seed: int) -> None:
    choices = oracle.Choices(seed)
    dtype, sources = pair.sample.dtype, pair.sources()
    payload = oracle.encode_delta(dtype, pair.segments(), sources, pair.source, choices)
    assert pair.oracle(payload) == pair.new()
    for isa in TWINS:
        assert pair.apply(payload, isa) == pair.new()


@given(samples, st.sampled_from(CHANGES), st.integers(0, 2**32 - 1))
def test_the_core_reads_any_gaps(sample: Sample, change: str, seed: int) -> None:
    pair = Pair(sample, sample.dtype, change)
    payload = oracle.encode_gaps(
        sample.dtype, pair.segments(), pair.sources(), oracle.Choices(seed)
    )
    assert pair.oracle(payload) == pair.new()
    for isa in TWINS:
        assert pair.apply(payload, isa) == pair.new()


def test_few_changes_are_gaps_and_many_are_not() -> None:
    kinds = {}
    for part in (0.001, 0.02, 0.07, 0.2):
        rng = np.random.default_rng(3)
        old = bits_of("BF16", rng.normal(0, 0.05, 1 << 18))
        new = old + (rng.random(1 << 18) < part)
        f = FORMATS["BF16"]
        segment = core.Segment(f.store(new), 1 << 18, 512)
        kinds[part] = core.encode_delta("BF16", [segment], [f.store(old)])[0]
    assert kinds == {0.001: GAPS, 0.02: GAPS, 0.07: GAPS, 0.2: DELTA}


@pytest.mark.parametrize("source", sorted(FORMATS))
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_predictions(dtype: str, source: str) -> None:
    """Every float of 16 bits, and many of 32, as PyTorch-like rounding has it."""
    old, new = FORMATS[source], FORMATS[dtype]
    rng = np.random.default_rng(1)
    bits = np.arange(1 << 16) if old.size == 2 else rng.integers(0, 1 << 32, 1 << 17)
    if old.size == 4:
        # Around every half of both narrow formats, ties and overflow.
        near = (np.arange(1 << 16) << 16)[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001])
        half = np.arange(0x37000000, 0x48000000, 0x1000)[:, None] + np.array([-1, 0, 1])
        bits = np.concatenate([bits, near.ravel(), half.ravel(), half.ravel() + (1 << 31)])
    n = len(bits)
    blank = [core.Segment(bytearray(n * new.size), n, n)]
    # Nothing is coded: the elements are the predictions.
    head = bytes([4, new.code]) + (1).to_bytes(4, "little") + n.to_bytes(4, "little")
    payload = head + bytes([old.code, 0, 0, 12, 0, 0, 0, 0, 0])
    core.apply(payload, dtype, new.size, blank, sources=[old.store(bits)])
    found = new.load(bytes(blank[0].mem))
    expected = oracle.decode_chunk(payload, dtype, new.size, blank, None, [old.store(bits)])
    assert (found == new.load(expected[0])).all()
    u = bits & (old.sign - 1)
    number = u <= old.inf
    with np.errstate(all="ignore"):
        value = np.where(u < old.inf, old.value(u), np.inf) * np.where(bits >= old.sign, -1.0, 1.0)
        if dtype == "F16":
            ieee = value.astype("<f2").view("<u2").astype(np.int64)
        elif dtype == "F32":
            ieee = value.astype("<f4").view("<u4").astype(np.int64)
        else:
            single = value.astype("<f4").view("<u4").astype(np.int64)
            ieee = (single + 0x7FFF + (single >> 16 & 1)) >> 16
    assert (found == ieee)[number].all()
    is_nan = found & (new.sign - 1) > new.inf
    assert (is_nan == ~number).all()


def test_what_an_update_costs() -> None:
    """Bytes that a change of the format must not raise unnoticed."""
    n = 1 << 20
    rng = np.random.default_rng(3)
    master = rng.normal(0, 0.05, n).astype("<f4")
    old = bits_of("BF16", master)
    f = FORMATS["BF16"]
    few = bits_of("BF16", master + rng.choice([-2e-6, 2e-6], n).astype("<f4"))

    def size(new: Ints) -> int:
        segment = core.Segment(f.store(new), n, 1024)
        return len(core.encode_delta("BF16", [segment], [f.store(old)]))

    assert size(old) < 24
    rows = np.arange(n) // 1024 % 16 == 0
    exponent = (old & 0x7FFF) >> 7
    bound = 0.0
    for e in np.unique(exponent):
        symbols = (few - old)[exponent == e]
        counts = np.unique(symbols, return_counts=True)[1]
        bound += float((counts * np.log2(len(symbols) / counts)).sum()) / 8
    assert size(few) < 1.06 * bound + 400
    assert size(np.where(rows, few, old)) < 1.1 * bound / 16 + 500


def test_a_dense_change_costs_no_more_than_the_change() -> None:
    n = 1 << 18
    rng = np.random.default_rng(3)
    master = rng.normal(0, 0.05, n).astype("<f4")
    new = master + rng.normal(0, 1e-3, n).astype("<f4")
    segment = core.Segment(new.tobytes(), n, 512)
    payload = core.encode_delta("F32", [segment], [master.tobytes()])
    full = core.encode("F32", [segment], core.row_scales("F32", -160, [segment]), [0], full=True)
    assert len(payload) < 0.85 * len(full.payloads[0])


def test_trailing_zeros_cost_nothing() -> None:
    """Narrow floats in wide ones, before and after."""
    n = 1 << 16
    rng = np.random.default_rng(3)
    old = bits_of("BF16", rng.normal(0, 0.05, n))
    new = old + rng.integers(-1, 2, n) * (rng.random(n) < 0.3)
    narrow, wide = FORMATS["BF16"], FORMATS["F32"]
    small = core.encode_delta(
        "BF16", [core.Segment(narrow.store(new), n, 512)], [narrow.store(old)]
    )
    large = core.encode_delta(
        "F32", [core.Segment(wide.store(new << 16), n, 512)], [wide.store(old << 16)]
    )
    assert len(large) <= len(small) + 8


class TestArguments:
    segment = core.Segment(bytes(40), 10, 5)

    @pytest.mark.parametrize("sources", [[], [bytes(39)], [bytes(20)], [None], [bytes(40)] * 2])
    def test_sources_to_encode(self, sources: list[bytes | None]) -> None:
        with pytest.raises(UsageError):
            core.encode_delta("F32", [self.segment], sources)

    @pytest.mark.parametrize(("dtype", "source"), [("I32", "F32"), ("F32", "I32")])
    def test_dtypes(self, dtype: str, source: str) -> None:
        with pytest.raises(UsageError):
            core.encode_delta(dtype, [self.segment], [bytes(40)], source)

    def test_sources_to_apply(self) -> None:
        payload = core.encode_delta("F32", [self.segment], [bytes(20)], "BF16")
        target = [core.Segment(bytearray(40), 10, 5)]
        for sources in (None, [None], [bytes(40)], [bytes(19)]):
            with pytest.raises(FormatError):
                core.apply(payload, "F32", 4, target, sources=sources)
        with pytest.raises(UsageError):
            core.apply(payload, "F32", 4, target, sources=[])
        core.apply(payload, "F32", 4, target, sources=[bytes(20)])

    def test_a_source_that_shares_some_memory(self) -> None:
        payload = core.encode_delta("F32", [self.segment], [bytes(40)])
        memory = memoryview(bytearray(44))
        with pytest.raises(UsageError):
            core.apply(payload, "F32", 4, [core.Segment(memory[:40], 10, 5)], sources=[memory[4:]])


# --- Hostile payloads, in memory that ends where the process's does.

SHAPES = ((300, 20), (7, 4))
SMALL = [
    Pair(Sample(dtype, "special", SHAPES, seed), source, change)
    for seed, (dtype, source, change) in enumerate(
        [
            ("BF16", "BF16", "few"),
            ("BF16", "BF16", "others"),
            ("F16", "F16", "steps"),
            ("F32", "F32", "dense"),
            ("F32", "F32", "a run"),
            ("F32", "BF16", "few"),
            ("F16", "F32", "dense"),
        ]
    )
]


def attempt(pair: Pair, payload: bytes) -> bytes | None:
    """What comes of it, the same everywhere; None if it is refused."""
    results: list[bytes | None] = []
    for isa in TWINS:
        memory = ROOM_OUT.hold(joined(pair.sample.blank()))
        source = ROOM_FROM.hold(b"".join(pair.sources()))
        size = len(source) // pair.sample.elems
        segments, sources, at = [], [], 0
        for elems, cols in pair.sample.shapes:
            end = at + elems
            part = memory[at * pair.sample.item : end * pair.sample.item]
            segments.append(core.Segment(part, elems, cols))
            sources.append(source[at * size : end * size])
            at = end
        sample = pair.sample
        held = ROOM_IN.hold(payload)
        try:
            core.apply(held, sample.dtype, sample.item, segments, isa, sources=sources)
            results.append(bytes(memory))
        except FormatError:
            results.append(None)
    assert all(r == results[0] for r in results)
    return results[0]


def attempt_oracle(pair: Pair, payload: bytes) -> bytes | None:
    try:
        return pair.oracle(payload)
    except oracle.Malformed:
        return None


@pytest.mark.parametrize("pair", SMALL, ids=repr)
def test_cut_at_every_byte(pair: Pair) -> None:
    payload = pair.encode()
    assert attempt(pair, payload) == pair.new()
    for size in range(len(payload)):
        assert attempt(pair, payload[:size]) is None, f"accepted {size} bytes"
    for more in (b"\0", b"\1", bytes(100)):
        assert attempt(pair, payload + more) is None


@pytest.mark.slow
@pytest.mark.parametrize("pair", SMALL, ids=repr)
def test_bits_of_the_beginning_and_some_of_the_rest(pair: Pair) -> None:
    payload = pair.encode()
    rng = np.random.default_rng(len(payload))
    # A third of the first bits, another one for each sample: the oracle takes its time.
    places = [*range(len(payload) % 3, 8 * 40, 3), *rng.integers(0, 8 * len(payload), 30).tolist()]
    for place in places[: 8 * len(payload)]:
        out = bytearray(payload)
        out[place // 8] ^= 1 << place % 8
        assert attempt(pair, bytes(out)) == attempt_oracle(pair, bytes(out))


@pytest.mark.parametrize("pair", LARGE[::5], ids=repr)
def test_changed_bytes_of_large_chunks(pair: Pair) -> None:
    payload = pair.encode()
    rng = np.random.default_rng(len(payload))
    for _ in range(12):
        out = bytearray(payload)
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
        attempt(pair, bytes(out))
        attempt(pair, payload[: int(rng.integers(len(payload)))])
