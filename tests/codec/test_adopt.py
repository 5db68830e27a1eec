"""Floats from a quantised copy: blocks, round trips, twins, the oracle, hostile bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.blocks import BLOCKS, NAN, dequantise
from oracle.delta import predict
from oracle.floats import FORMATS, Ints
from oracle.guard import Guarded
from oracle.rans import Log
from oracle.samples import FAMILIES, bits_of, joined

from p2u import types
from p2u.codec import core
from p2u.errors import FormatError, UsageError

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]
ROOM_IN, ROOM_OUT, ROOM_FROM = Guarded(1 << 20), Guarded(1 << 20), Guarded(1 << 20)

#: What the floats have to do with the blocks.
RELATIONS = ["rounded", "rough", "same", "pruned", "none"]
#: What the blocks hold: numbers of ordinary scale, any bytes, scales that are no numbers.
SOURCES = ["ordinary", "noise", "special"]
#: Places of the numbers of binary16 in a block, where it is not only the first.
HALVES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2]}
HALVES |= {"Q5_K": [0, 2], "Q6_K": [208], "F8_E4M3": [], "F8_E5M2": []}
HALF_FAMILIES = {
    "ordinary": lambda rng, n: rng.lognormal(-5, 1, n) * rng.choice([1, 1, -1], n),
    "special": lambda rng, n: rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 6e-8, 65504], n),
}


def blocks(block: str, count: int, kind: str, rng: np.random.Generator) -> bytes:
    """So many blocks."""
    out = rng.integers(0, 256, (count, BLOCKS[block][2]), np.uint8)
    for at in HALVES.get(block, [0]) if kind != "noise" else []:
        with np.errstate(all="ignore"):
            half = HALF_FAMILIES[kind](rng, count).astype("<f2")
        out[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    return out.tobytes()


@dataclass(frozen=True)
class Copy:
    """Floats of a chunk, and the blocks that somebody made of something like them."""

    dtype: str
    block: str
    kind: str
    relation: str
    #: Blocks and columns of each segment.
    shapes: tuple[tuple[int, int], ...]
    seed: int

    @property
    def item(self) -> int:
        return FORMATS[self.dtype].size

    @property
    def elems(self) -> list[int]:
        return [BLOCKS[self.block][1] * count for count, _ in self.shapes]

    def sources(self) -> list[bytes]:
        rng = np.random.default_rng(self.seed)
        return [blocks(self.block, count, self.kind, rng) for count, _ in self.shapes]

    def new(self) -> bytes:
        f, rng = FORMATS[self.dtype], np.random.default_rng(self.seed + 1)
        n = sum(self.elems)
        values, steps = dequantise(self.block, b"".join(self.sources()))
        near = predict(f, FORMATS["F32"], values)
        if self.relation == "same":
            return f.store(near)
        if self.relation == "none":
            return f.store(FAMILIES[str(rng.choice(list(FAMILIES)))](rng, self.dtype, n))
        singles = [v.astype("<u4").view("<f4").astype(float) for v in (values, steps)]
        spread = 1.0 if self.relation == "rounded" else 5.0
        with np.errstate(all="ignore"):
            found = bits_of(
                self.dtype, singles[0] + singles[1] * rng.uniform(-spread, spread, n) / 2
            )
        if self.relation == "pruned":
            found = np.where(rng.random(n) < 0.5, 0, found)
        return f.store(found)

    def split(self, data: bytes) -> list[bytes]:
        ends = np.cumsum(self.elems) * self.item
        return [data[e - n * self.item : e] for e, n in zip(ends, self.elems, strict=True)]

    def segments(self) -> list[core.Segment]:
        parts = zip(self.split(self.new()), self.elems, self.shapes, strict=True)
        return [core.Segment(part, n, cols) for part, n, (_, cols) in parts]

    def blank(self) -> list[core.Segment]:
        parts = zip(self.elems, self.shapes, strict=True)
        return [core.Segment(bytearray(n * self.item), n, cols) for n, (_, cols) in parts]

    def encode(self, wish: int = core.AUTO) -> bytes:
        return core.encode_adopt(self.dtype, self.segments(), self.sources(), self.block, wish)

    def apply(self, payload: bytes, wish: int = core.AUTO) -> bytes:
        memory = self.blank()
        core.apply(payload, self.dtype, self.item, memory, wish, sources=self.sources())
        return joined(memory)

    def oracle(self, payload: bytes, log: Log | None = None) -> bytes:
        return b"".join(
            oracle.decode_chunk(payload, self.dtype, self.item, self.blank(), log, self.sources())
        )


copies = st.builds(
    Copy,
    dtype=st.sampled_from(sorted(FORMATS)),
    block=st.sampled_from(sorted(BLOCKS)),
    kind=st.sampled_from(SOURCES),
    relation=st.sampled_from(RELATIONS),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 700)), min_size=1, max_size=3).map(
        tuple
    ),
    seed=st.integers(0, 2**32 - 1),
)

LARGE = [
    Copy(dtype, block, kind, relation, ((count, 300), (count // 7, 77)), 11)
    for dtype, block, count in [
        ("BF16", "Q4_K", 300),
        ("F16", "Q6_K", 300),
        ("F32", "Q8_0", 2000),
        ("BF16", "F8_E4M3", 40_000),
        ("F32", "Q5_K", 30),
    ]
    for kind, relation in [("ordinary", "rounded"), ("ordinary", "pruned"), ("special", "rough")]
]


class TestBlocks:
    @pytest.mark.parametrize("kind", SOURCES)
    @pytest.mark.parametrize("block", sorted(BLOCKS))
    def test_values(self, block: str, kind: str) -> None:
        data = blocks(block, 3000, kind, np.random.default_rng(2))
        found = np.frombuffer(core.dequantise(block, data), "<u4")
        assert (found == dequantise(block, data)[0]).all()

    @pytest.mark.parametrize("kind", SOURCES)
    @pytest.mark.parametrize("block", [b for b in sorted(BLOCKS) if b[0] == "Q"])
    def test_values_are_those_of_gguf(self, block: str, kind: str) -> None:
        gguf = pytest.importorskip("gguf")
        data = blocks(block, 3000, kind, np.random.default_rng(3))
        found = np.frombuffer(core.dequantise(block, data), "<u4")
        kind_of = gguf.GGMLQuantizationType[block]
        with np.errstate(all="ignore"):
            theirs = gguf.quants.dequantize(np.frombuffer(data, np.uint8), kind_of).ravel()
        bits = theirs.astype("<f4").view("<u4")
        assert (found == np.where(np.isnan(theirs), NAN, bits)).all()

    @pytest.mark.parametrize("block", ["F8_E4M3", "F8_E5M2"])
    def test_floats_of_8_bits(self, block: str) -> None:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        kind = ml_dtypes.float8_e4m3fn if block == "F8_E4M3" else ml_dtypes.float8_e5m2
        theirs = np.arange(256, dtype=np.uint8).view(kind).astype("<f4")
        found = np.frombuffer(core.dequantise(block, bytes(range(256))), "<f4")
        number = ~np.isnan(theirs)
        assert (np.isnan(found) == ~number).all()
        assert (found.view("<u4") == theirs.view("<u4"))[number].all()

    @pytest.mark.parametrize("block", sorted(BLOCKS))
    def test_only_whole_blocks(self, block: str) -> None:
        size = types.BLOCKS[block][1]
        assert (core.BLOCK_CODES[block], *types.BLOCKS[block]) == BLOCKS[block][:3]
        for wrong in [0] + [size - 1, size + 1] * (size > 1):
            with pytest.raises(UsageError):
                core.dequantise(block, bytes(wrong))


@given(copies)
def test_the_floats_are_exact(copy: Copy) -> None:
    payload = copy.encode()
    for isa in TWINS:
        assert copy.encode(isa) == payload
        assert copy.apply(payload, isa) == copy.new()


@pytest.mark.parametrize("copy", LARGE, ids=repr)
def test_large_chunks(copy: Copy) -> None:
    payload = copy.encode()
    for isa in TWINS:
        assert copy.encode(isa) == payload
        assert copy.apply(payload, isa) == copy.new()


@given(copies)
def test_the_oracle_reads_and_repeats_what_the_core_writes(copy: Copy) -> None:
    payload = copy.encode()
    log: Log = []
    assert copy.oracle(payload, log) == copy.new()
    replay = oracle.Replay(log)
    again = oracle.encode_adopt(copy.dtype, copy.segments(), copy.sources(), copy.block, replay)
    assert again == payload
    assert replay.used_up()


@given(copies, st.integers(0, 2**32 - 1))
def test_the_core_reads_what_the_oracle_writes(copy: Copy, seed: int) -> None:
    choices = oracle.Choices(seed)
    payload = oracle.encode_adopt(copy.dtype, copy.segments(), copy.sources(), copy.block, choices)
    assert copy.oracle(payload) == copy.new()
    for isa in TWINS:
        assert copy.apply(payload, isa) == copy.new()


def rounded(dtype: str, block: str, n: int) -> tuple[Ints, bytes]:
    """Gaussian weights, and their own round-to-nearest copy."""
    rng = np.random.default_rng(5)
    weights = rng.normal(0, 0.04, n).astype("<f4")
    levels = {"Q4_0": 8, "Q8_0": 127}[block]
    groups = weights.reshape(-1, 32)
    d = (np.abs(groups).max(1) / levels).astype("<f2")
    q = np.clip(np.rint(groups / d.astype("<f4")[:, None]), -levels, levels - (levels == 8))
    if block == "Q4_0":
        code = (q + 8).astype(np.uint8)
        packed = code[:, :16] | code[:, 16:] << 4
    else:
        packed = q.astype(np.int8).view(np.uint8)
    data = np.concatenate([d.view(np.uint8).reshape(-1, 2), packed], 1)
    return predict(FORMATS[dtype], FORMATS["F32"], bits_of("F32", weights)), data.tobytes()


@pytest.mark.parametrize(("block", "most"), [("Q4_0", 1.04), ("Q8_0", 1.11)])
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_what_is_missing_costs_what_a_step_leaves_open(dtype: str, block: str, most: float) -> None:
    """Bytes that a change of the format must not raise unnoticed: against floats in a step."""
    n = 1 << 18
    f = FORMATS[dtype]
    new, data = rounded(dtype, block, n)
    payload = core.encode_adopt(dtype, [core.Segment(f.store(new), n, 512)], [data], block)
    steps = dequantise(block, data)[1].astype("<u4").view("<f4").astype(float)
    steps = np.repeat(steps.reshape(n // 32, -1)[:, :1], 32)
    u = new & (f.sign - 1)
    unit = f.value(u + 1) - f.value(u)
    open_ = np.log2(np.maximum(np.abs(steps) / unit, 1)).sum() / 8
    assert len(payload) < most * open_ + 800


class TestArguments:
    weights = core.Segment(bytes(128), 64, 5)
    data = bytes(2 * 18)

    @pytest.mark.parametrize(
        "sources", [[], [bytes(35)], [bytes(18)], [None], [bytes(36)] * 2, [bytes(128)]]
    )
    def test_sources_to_encode(self, sources: list[bytes | None]) -> None:
        with pytest.raises(UsageError):
            core.encode_adopt("BF16", [self.weights], sources, "Q4_0")

    def test_segments_of_no_whole_blocks(self) -> None:
        with pytest.raises(UsageError):
            core.encode_adopt("BF16", [core.Segment(bytes(80), 40, 5)], [bytes(36)], "Q4_0")

    def test_dtypes_and_blocks(self) -> None:
        with pytest.raises(UsageError):
            core.encode_adopt("I16", [self.weights], [self.data], "Q4_0")
        for call in (
            lambda: core.encode_adopt("BF16", [self.weights], [self.data], "IQ1_S"),
            lambda: core.dequantise("IQ1_S", self.data),
        ):
            with pytest.raises(UsageError, match="IQ1_S"):
                call()

    def test_sources_to_apply(self) -> None:
        payload = core.encode_adopt("BF16", [self.weights], [self.data], "Q4_0")
        target = [core.Segment(bytearray(128), 64, 5)]
        for sources in (None, [None], [bytes(35)], [bytes(128)], [bytes(0)]):
            with pytest.raises(FormatError):
                core.apply(payload, "BF16", 2, target, sources=sources)
        with pytest.raises(FormatError):
            core.apply(payload, "F16", 2, target, sources=[self.data])
        core.apply(payload, "BF16", 2, target, sources=[self.data])


# --- Hostile payloads, in memory that ends where the process's does.

SMALL = [
    Copy("BF16", "Q4_K", "ordinary", "rounded", ((1, 20), (1, 256)), 1),
    Copy("F16", "Q6_K", "ordinary", "rough", ((1, 100),), 2),
    Copy("F32", "Q8_0", "special", "rounded", ((7, 9), (2, 3)), 3),
    Copy("BF16", "F8_E5M2", "noise", "rough", ((300, 20), (7, 4)), 4),
    Copy("F32", "Q3_K", "ordinary", "none", ((1, 20),), 5),
    Copy("F16", "Q5_1", "special", "pruned", ((4, 20), (1, 4)), 6),
]


def attempt(copy: Copy, payload: bytes) -> bytes | None:
    """What comes of it, the same everywhere; None if it is refused."""
    results: list[bytes | None] = []
    for isa in TWINS:
        memory = ROOM_OUT.hold(bytes(sum(copy.elems) * copy.item))
        held = ROOM_FROM.hold(b"".join(copy.sources()))
        segments, sources, at, taken = [], [], 0, 0
        for (_, cols), elems, source in zip(copy.shapes, copy.elems, copy.sources(), strict=True):
            end = at + elems * copy.item
            segments.append(core.Segment(memory[at:end], elems, cols))
            sources.append(held[taken : taken + len(source)])
            at, taken = end, taken + len(source)
        try:
            core.apply(ROOM_IN.hold(payload), copy.dtype, copy.item, segments, isa, sources=sources)
            results.append(bytes(memory))
        except FormatError:
            results.append(None)
    assert all(r == results[0] for r in results)
    return results[0]


def attempt_oracle(copy: Copy, payload: bytes) -> bytes | None:
    try:
        return copy.oracle(payload)
    except oracle.Malformed:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("copy", SMALL, ids=repr)
def test_cut_at_every_byte(copy: Copy) -> None:
    payload = copy.encode()
    assert attempt(copy, payload) == copy.new()
    for size in range(len(payload)):
        assert attempt(copy, payload[:size]) is None, f"accepted {size} bytes"
    for more in (b"\0", b"\1", bytes(100)):
        assert attempt(copy, payload + more) is None


@pytest.mark.slow
@pytest.mark.parametrize("copy", SMALL, ids=repr)
def test_bits_of_the_beginning_and_some_of_the_rest(copy: Copy) -> None:
    payload = copy.encode()
    rng = np.random.default_rng(len(payload))
    # A third of the first bits, another one for each sample: the oracle takes its time.
    places = [*range(len(payload) % 3, 8 * 60, 3), *rng.integers(0, 8 * len(payload), 30).tolist()]
    for place in places:
        out = bytearray(payload)
        out[place // 8] ^= 1 << place % 8
        assert attempt(copy, bytes(out)) == attempt_oracle(copy, bytes(out))


@pytest.mark.slow
@pytest.mark.parametrize("value", range(256))
def test_every_type_of_blocks(value: int) -> None:
    """None but those of the same size decodes, and each as the oracle has it."""
    copy = SMALL[2]
    out = bytearray(copy.encode())
    out[10] = value
    found = attempt(copy, bytes(out))
    assert found == attempt_oracle(copy, bytes(out))
    assert (found is not None) == (value == core.BLOCK_CODES["Q8_0"])


@pytest.mark.parametrize("copy", LARGE[::4], ids=repr)
def test_changed_bytes_of_large_chunks(copy: Copy) -> None:
    payload = copy.encode()
    rng = np.random.default_rng(len(payload))
    for _ in range(8):
        out = bytearray(payload)
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
        attempt(copy, bytes(out))
        attempt(copy, payload[: int(rng.integers(len(payload)))])
