"""Properties of the native core: round trips, zeros, errors, twins, arguments."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.floats import FORMATS
from oracle.samples import FAMILIES, LEVELS, Sample, bits_of, joined, samples

from p2u.codec import core, plain
from p2u.errors import P2UError, UsageError

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]
levels = st.sampled_from(LEVELS)
offsets = st.integers(-300, 200)


def states(sample: Sample, done: core.Encoded, isa: int = core.AUTO) -> list[np.ndarray]:
    """Bits of all weights after each payload."""
    memory = sample.blank()
    out = []
    for payload in done.payloads:
        core.apply(payload, sample.dtype, sample.item, memory, isa)
        out.append(FORMATS[sample.dtype].load(joined(memory)))
    return out


def encode(
    sample: Sample, wanted: list[int], offset: int, codes: bytes | None = None, full: bool = False
) -> tuple[np.ndarray, core.Encoded]:
    """Step exponents of all elements, and the payloads."""
    segments = sample.segments()
    scales = core.row_scales(sample.dtype, offset, segments)
    done = core.encode(sample.dtype, segments, scales, wanted, codes=codes, full=full)
    lengths = [min(s.cols, s.elems - at) for s in segments for at in range(0, s.elems, s.cols)]
    return np.repeat(np.frombuffer(scales, "=i2").astype(np.int64) >> 2, lengths), done


@given(samples, levels, offsets, st.booleans())
def test_the_last_level_is_exact(
    sample: Sample, wanted: list[int], offset: int, random_codes: bool
) -> None:
    _, done = encode(sample, wanted, offset, sample.codes() if random_codes else None)
    assert len(done.payloads) == len(wanted) + 1
    if wanted[-1] == 0:
        assert (states(sample, done)[-1] == sample.weights()).all()
        assert done.errors[-1] == 0.0


@given(samples, offsets, st.booleans())
def test_a_full_chunk_is_exact(sample: Sample, offset: int, random_codes: bool) -> None:
    codes = sample.codes() if random_codes else None
    _, done = encode(sample, [0], offset, codes, full=True)
    (state,) = states(sample, done)
    assert (state == sample.weights()).all()


@given(samples, levels, offsets)
def test_zeros_stay_zeros(sample: Sample, wanted: list[int], offset: int) -> None:
    _, done = encode(sample, wanted, offset)
    mask = FORMATS[sample.dtype].sign - 1
    zeros = sample.weights() & mask == 0
    for state in states(sample, done):
        assert not (state[zeros] & mask).any()


@given(samples, levels, offsets, st.booleans())
def test_errors_stay_within_the_cells(
    sample: Sample, wanted: list[int], offset: int, random_codes: bool
) -> None:
    """Base: half a step (nearest codes). A level: half a cell, rounded to a float.

    A cell is as many halvings of the step, or ends at the seventh bit of the mantissa.
    """
    f = FORMATS[sample.dtype]
    e, done = encode(sample, wanted, offset, sample.codes() if random_codes else None)
    weights = sample.weights()
    finite = weights & (f.sign - 1) < f.inf
    true = f.value(weights & (f.sign - 1)) * np.where(weights >= f.sign, -1, 1)
    halvings = [None if random_codes else 1, *[k + 1 if k else None for k in wanted]]
    for state, k in zip(states(sample, done), halvings, strict=True):
        u = state & (f.sign - 1)
        assert (state == weights)[~finite].all(), "infinities and NaNs travel in the base"
        assert (u < f.inf)[finite].all()
        if k is not None:
            got = f.value(u) * np.where(state >= f.sign, -1, 1)
            # Rounded down to a float: less than one unit in the last place on top.
            u = u[finite]
            unit = f.value(u + 1) - f.value(u) if k > 1 else 0.0
            error = np.abs(got[finite] - true[finite])
            octave = np.maximum((weights & (f.sign - 1)) >> f.mant, 1) - f.bias
            half = np.maximum(e - k, octave - 8) if k > 1 else e - k
            assert (error <= np.ldexp(1.0, half)[finite] + unit).all()


@given(samples, levels, offsets)
def test_the_stated_errors_are_the_states(sample: Sample, wanted: list[int], offset: int) -> None:
    f = FORMATS[sample.dtype]
    _, done = encode(sample, wanted, offset)

    def finite_values(bits: np.ndarray) -> list[Fraction]:
        u = bits & (f.sign - 1)
        v = np.where(u < f.inf, f.value(u), 0.0) * np.where(bits >= f.sign, -1, 1)
        return [Fraction(x) for x in v.tolist()]

    true = finite_values(sample.weights())
    assert math.isclose(done.signal, sum(x * x for x in true), rel_tol=1e-6)
    for state, error in zip(states(sample, done), done.errors, strict=True):
        exact = sum((x - y) ** 2 for x, y in zip(finite_values(state), true, strict=True))
        # What is tiny against its step, and much more so against the signal, adds nothing.
        assert math.isclose(error, exact, rel_tol=1e-6, abs_tol=1e-12 * done.signal)


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@pytest.mark.parametrize("std", [1e-6, 0.02, 1.0, 30.0])
def test_scales_follow_the_rows(dtype: str, std: float) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(0, std, (20, 400)) * 2.0 ** rng.integers(-2, 3, (20, 1))
    segment = core.Segment(FORMATS[dtype].store(bits_of(dtype, rows.ravel())), 8000, 400)
    stored = bits_of(dtype, rows)
    f = FORMATS[dtype]
    rms = np.sqrt((f.value(stored & (f.sign - 1)) ** 2).mean(axis=1))
    previous = None
    for offset in (-128, -64, 0):
        scales = np.frombuffer(core.row_scales(dtype, offset, [segment]), "=i2").astype(int)
        expected = np.floor(4 * np.log2(rms * 2.0 ** (offset / 64)))
        clipped = np.clip(expected, 4 * f.e_min, 4 * f.e_max + 3)
        assert (np.abs(scales - clipped) <= (np.abs(4 * np.log2(rms) % 1 - 0.5) > 0.499)).all()
        if previous is not None and (expected - 4 >= 4 * f.e_min).all():
            assert (scales == previous + 4).all(), "64 more double the step"
        previous = scales


def test_scales_of_rows_without_a_size() -> None:
    """Zeros, infinities and NaNs do not count; the scale stays in range."""
    rows = np.array([[0.0, -0.0], [np.inf, 0.0], [np.nan, -np.inf], [3e38, 3e38]], "<f4")
    for offset in (-(2**31), -1000, 0, 1000, 2**31 - 1):
        scales = np.frombuffer(
            core.row_scales("F32", offset, [core.Segment(rows.tobytes(), 8, 2)]), "=i2"
        )
        f = FORMATS["F32"]
        assert (scales >= 4 * f.e_min).all()
        assert (scales <= 4 * f.e_max + 3).all()
        assert (scales[:3] == 4 * f.e_min).all()


@given(samples, st.integers(-160, -100), st.integers(0, 2**32 - 1))
def test_any_scales_will_do(sample: Sample, offset: int, seed: int) -> None:
    """The step is the caller's choice, even one that fits no weight."""
    f = FORMATS[sample.dtype]
    segments = sample.segments()
    rng = np.random.default_rng(seed)
    count = sum(s.rows for s in segments)
    scales = rng.integers(4 * f.e_min, 4 * f.e_max + 4, count).astype("=i2")
    done = core.encode(sample.dtype, segments, scales.tobytes(), [3, 10, 15, 0])
    assert (states(sample, done)[-1] == sample.weights()).all()


@pytest.mark.parametrize("isa", TWINS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_twins_are_equal(dtype: str, family: str, isa: int) -> None:
    """All lanes, several blocks, ends of blocks in the middle of rows, a last short group."""
    sample = Sample(dtype, family, ((40_000, 300), (5000, 77), (20_001, 20_001)), 11)
    _, done = encode(sample, [2, 5, 0], -150, sample.codes() if family == "normal" else None)
    expected = states(sample, done, core.SCALAR)
    assert (expected[-1] == sample.weights()).all()
    for state, other in zip(states(sample, done, isa), expected, strict=True):
        assert (state == other).all()


def every_encoding(sample: Sample, scales: bytes, isa: int) -> list[core.Encoded]:
    """Both kinds of chunk, with and without levels between and codes of the caller's."""
    segments = sample.segments()
    return [
        core.encode(sample.dtype, segments, scales, wanted, codes=codes, full=full, wanted=isa)
        for codes in (None, sample.codes())
        for wanted, full in (
            ([0], False),
            ([], False),
            ([4, 0], False),
            ([2, 5], False),
            ([0], True),
        )
    ]


@given(samples, offsets)
def test_encoders_are_equal(sample: Sample, offset: int) -> None:
    """Payloads and squared errors, to the last bit."""
    scales = core.row_scales(sample.dtype, offset, sample.segments())
    expected = every_encoding(sample, scales, core.SCALAR)
    for isa in TWINS:
        assert every_encoding(sample, scales, isa) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_encoders_are_equal_with_all_lanes(dtype: str, family: str) -> None:
    sample = Sample(dtype, family, ((40_000, 300), (5000, 77), (20_001, 20_001)), 11)
    for offset in (-150, 100):
        scales = core.row_scales(dtype, offset, sample.segments())
        expected = every_encoding(sample, scales, core.SCALAR)
        for isa in TWINS:
            assert every_encoding(sample, scales, isa) == expected


@pytest.mark.parametrize("isa", TWINS)
@pytest.mark.parametrize("item", [1, 2, 3, 4, 8, 16])
def test_twins_are_equal_for_opaque_elements(item: int, isa: int) -> None:
    rng = np.random.default_rng(item)
    data = np.minimum(rng.geometric(0.1, 70_001 * item), 255).astype(np.uint8)
    segments = [core.Segment(data.tobytes(), 70_001, 1)]
    payload = core.encode_opaque(item, segments, isa).payloads[0]
    assert payload == core.encode_opaque(item, segments, core.SCALAR).payloads[0]
    assert len(payload) < 0.8 * len(data)
    memory = bytearray(len(data))
    core.apply(payload, "U8", item, [core.Segment(memory, 70_001, 1)], isa)
    assert memory == data.tobytes()


@given(
    st.sampled_from([1, 2, 4, 8, 16]),
    st.lists(st.integers(1, 600), min_size=1, max_size=8),
    st.sampled_from(["constant", "few", "noise", "one plane"]),
    st.integers(0, 2**32 - 1),
)
def test_opaque_round_trip(item: int, elems: list[int], family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = sum(elems)
    planes = np.zeros((n, item), np.uint8)
    if family == "few":
        planes[:] = rng.choice(
            np.array([0, 1, 7, 255], np.uint8), (n, item), p=[0.9, 0.04, 0.04, 0.02]
        )
    elif family == "noise":
        planes[:] = rng.integers(0, 256, (n, item))
    elif family == "one plane":
        planes[:, -1] = rng.integers(0, 256, n)
    parts = np.split(planes, np.cumsum(elems)[:-1])
    segments = [core.Segment(p.tobytes(), len(p), 1) for p in parts]
    payload = core.encode_opaque(item, segments).payloads[0]
    assert len(payload) <= n * item + 2 * item + 12
    memory = [core.Segment(bytearray(len(p) * item), len(p), 1) for p in parts]
    core.apply(payload, "F64", item, memory)
    assert joined(memory) == planes.tobytes()


@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_floats_can_travel_without_levels(dtype: str) -> None:
    sample = Sample(dtype, "noise", ((500, 50), (7, 7)), 5)
    payload = core.encode_opaque(sample.item, sample.segments()).payloads[0]
    memory = sample.blank()
    core.apply(payload, dtype, sample.item, memory)
    assert joined(memory) == joined(sample.segments())


@pytest.mark.parametrize("levels", [[0], [4, 0], [1, 8, 0]])
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_rows_far_below_their_step(dtype: str, levels: list[int]) -> None:
    """Channels that died in training have levels like all others, and hardly a patch."""
    rng = np.random.default_rng(12)
    octaves = np.repeat([0, 10, 30, 60, 90], 400) if dtype != "F16" else np.repeat([0, 4, 8], 400)
    weights = bits_of(dtype, rng.uniform(1, 2, len(octaves)) * 2.0**-octaves)
    f = FORMATS[dtype]
    segment = core.Segment(f.store(weights), len(weights), 100)
    scales = np.full(segment.rows, -4, "=i2").tobytes()
    done = core.encode(dtype, [segment], scales, levels)
    memory = core.Segment(bytearray(len(segment.mem)), len(weights), 100)
    for payload in done.payloads:
        core.apply(payload, dtype, f.size, [memory])
    assert bytes(memory.mem) == segment.mem
    assert sum(map(len, done.payloads)) < 1.1 * len(segment.mem) + 100 * len(levels)


@pytest.mark.parametrize("levels", [[0], [4, 0]])
def test_rows_with_trailing_zeros_of_their_own(levels: list[int]) -> None:
    """Rows of binary16, of bfloat16 and of binary32 values in turn."""
    rng = np.random.default_rng(13)
    weights = bits_of("F32", rng.normal(0, 0.05, (600, 33)))
    weights[::3] = bits_of("F32", rng.normal(0, 0.05, (200, 33)).astype("<f2").astype("<f4"))
    weights[1::3] = weights[1::3] >> 16 << 16
    segment = core.Segment(FORMATS["F32"].store(weights.ravel()), weights.size, 33)
    scales = core.row_scales("F32", -160, [segment])
    done = core.encode("F32", [segment], scales, levels)
    memory = core.Segment(bytearray(len(segment.mem)), weights.size, 33)
    for payload in done.payloads:
        core.apply(payload, "F32", 4, [memory])
    assert bytes(memory.mem) == segment.mem
    # 13, 16 and 0 bits are zeros, 3 + 0 + 16 of 48 in the low plane are left.
    assert 8 * sum(map(len, done.payloads)) / weights.size < (15 + 12 + 28) / 3


def test_levels_cost_nothing() -> None:
    sample = Sample("BF16", "normal", ((262_144, 512),), 8)
    sizes = []
    for levels in ([4, 0], [2, 4, 0], [1, 2, 3, 4, 0]):
        sizes.append(sum(map(len, encode(sample, levels, -128)[1].payloads)))
    assert sizes[1] - sizes[0] < 1e-4 * 2 * 262_144
    assert sizes[2] - sizes[0] < 3e-4 * 2 * 262_144


def test_many_tiny_segments() -> None:
    sample = Sample("BF16", "normal", tuple((1 + i % 3, 1 + i % 2) for i in range(3000)), 5)
    _, done = encode(sample, [4, 0], -160)
    assert (states(sample, done)[-1] == sample.weights()).all()


def test_the_same_input_gives_the_same_bytes() -> None:
    sample = Sample("F32", "special", ((5000, 50), (700, 7)), 3)
    _, first = encode(sample, [4, 0], -160)
    _, again = encode(sample, [4, 0], -160)
    assert first.payloads == again.payloads


def test_only_the_segments_are_written() -> None:
    sample = Sample("F16", "cauchy", ((999, 37),), 4)
    _, done = encode(sample, [3, 0], -160)
    memory = bytearray(b"\xa5" * (32 + 999 * 2 + 32))
    view = memoryview(memory)[32:-32]
    for payload in done.payloads:
        core.apply(payload, "F16", 2, [core.Segment(view, 999, 37)])
    assert memory[:32] == memory[-32:] == b"\xa5" * 32
    assert (FORMATS["F16"].load(bytes(view)) == sample.weights()).all()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shift", [1, 2, 3, 7])
def test_unaligned_memory(dtype: str, shift: int) -> None:
    """Tensors in files lie at any offset (in protobuf at odd ones), to encode and to decode."""
    sample = Sample(dtype, "normal", ((30_000, 100),), 6)
    _, done = encode(sample, [4, 0], -160)
    data = bytes(sample.segments()[0].mem)
    moved = core.Segment(memoryview(bytearray(shift) + data)[shift:], 30_000, 100)
    scales = core.row_scales(dtype, -160, [moved])
    assert core.encode(dtype, [moved], scales, [4, 0]).payloads == done.payloads
    for isa in TWINS:
        memory = bytearray(shift + len(data) + 1)
        view = memoryview(memory)[shift:-1]
        for payload in done.payloads:
            core.apply(payload, dtype, sample.item, [core.Segment(view, 30_000, 100)], isa)
        assert bytes(view) == data
        assert not any(memory[:shift]) and not memory[-1]


def test_sizes_are_what_they_should_be() -> None:
    """Costs in bits per weight that a change of the format must not raise unnoticed."""
    sample = Sample("BF16", "normal", ((262_144, 512),), 8)
    _, done = encode(sample, [4, 0], -128)
    base, mid, exact = (8 * len(p) / 262_144 for p in done.payloads)
    # A Gaussian whose deviation is 5.12 steps has 2.047 + log2(5.12) = 4.403 bits.
    assert base < 4.43
    assert mid < 4.02, "sixteen cells to a bin"
    # The weights' own entropy is 10.455.
    assert base + mid + exact < 10.53
    _, direct = encode(sample, [0], -128)
    assert sum(map(len, done.payloads)) < 1.003 * sum(map(len, direct.payloads))
    zeros = Sample("BF16", "zeros", ((262_144, 512),), 8)
    _, done = encode(zeros, [0], -128)
    assert 8 * sum(map(len, done.payloads)) / 262_144 < 0.75, "a fifth of them is -0.0"


class TestArguments:
    """What does not fit together is refused before anything happens."""

    segment = core.Segment(bytes(40), 10, 5)
    scales = bytes(4)

    @pytest.mark.parametrize(
        "levels", [[4, 4], [5, 4], [0, 4], [16], [8, 16], [0, 0], [1, 0, 0], [1, 9], [7, 15]]
    )
    def test_levels(self, levels: list[int]) -> None:
        with pytest.raises(UsageError):
            core.encode("F32", [self.segment], self.scales, levels)

    @pytest.mark.parametrize("scales", [b"", bytes(2), bytes(6), b"\xff\x7f\0\0", b"\0\x80\0\0"])
    def test_scales(self, scales: bytes) -> None:
        with pytest.raises(UsageError):
            core.encode("F32", [self.segment], scales, [0])

    def test_codes(self) -> None:
        with pytest.raises(UsageError):
            core.encode("F32", [self.segment], self.scales, [0], codes=bytes(18))

    @pytest.mark.parametrize(
        ("size", "elems", "cols"),
        [(40, 9, 5), (39, 10, 5), (41, 10, 5), (40, 10, 0), (0, 0, 5), (40, 2**62 + 10, 5)],
    )
    def test_segments(self, size: int, elems: int, cols: int) -> None:
        bad = core.Segment(bytearray(size), elems, cols)
        with pytest.raises(UsageError):
            core.encode("F32", [bad], self.scales, [0])
        payload = core.encode("F32", [self.segment], self.scales, [0]).payloads[0]
        with pytest.raises(UsageError):
            core.apply(payload, "F32", 4, [bad])

    def test_no_segments(self) -> None:
        for call in (
            lambda: core.encode("F32", [], b"", [0]),
            lambda: core.encode_opaque(4, []),
            lambda: core.apply(bytes([1, 1, *bytes(18)]), "F32", 4, []),
            lambda: core.apply(bytes(20), "I8", 1, []),
        ):
            with pytest.raises(UsageError):
                call()

    @pytest.mark.parametrize("item", [0, 17])
    def test_item(self, item: int) -> None:
        with pytest.raises(UsageError):
            core.encode_opaque(item, [core.Segment(bytes(item * 3), 3, 1)])

    def test_read_only_memory(self) -> None:
        payload = core.encode("F32", [self.segment], self.scales, [0]).payloads[0]
        with pytest.raises(UsageError):
            core.apply(payload, "F32", 4, [self.segment])

    def test_scattered_memory(self) -> None:
        payload = core.encode("F32", [self.segment], self.scales, [0]).payloads[0]
        with pytest.raises(UsageError):
            core.apply(payload, "F32", 4, [core.Segment(memoryview(bytearray(80))[::2], 10, 5)])

    def test_an_instruction_set_that_is_not_here(self) -> None:
        missing = [
            isa
            for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON, 99)
            if core.isa(isa) == 0
        ]
        assert missing
        payload = core.encode("F32", [self.segment], self.scales, [0]).payloads[0]
        for isa in missing:
            with pytest.raises(UsageError):
                core.apply(payload, "F32", 4, [core.Segment(bytearray(40), 10, 5)], isa)

    def test_other_tensors(self) -> None:
        payload = core.encode("F32", [self.segment], self.scales, [0]).payloads[0]
        for dtype, item, elems, cols in (
            ("F32", 4, 10, 4),
            ("F32", 4, 11, 5),
            ("F32", 4, 5, 5),
            ("BF16", 2, 10, 5),
            ("I32", 4, 10, 5),
        ):
            memory = core.Segment(bytearray(item * elems), elems, cols)
            with pytest.raises(P2UError):
                core.apply(payload, dtype, item, [memory])


def test_an_opaque_payload_fits_tensors_of_any_dtype() -> None:
    data = bytes(range(64))
    payload = core.encode_opaque(2, [core.Segment(data, 32, 32)]).payloads[0]
    for dtype in ("BF16", "F16", "I16"):
        out = bytearray(64)
        core.apply(payload, dtype, 2, [core.Segment(out, 32, 32)])
        assert out == data


@given(
    st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3), max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_hashes_of_several_streams(sizes: list[list[int]], seed: int) -> None:
    """Any parts, of any sizes, give what hashlib says of the whole; a digest ends nothing."""
    hashes = plain.sha256(3)
    if hashes is None:
        pytest.skip("no instructions for SHA-256 here")
    rng = np.random.default_rng(seed)
    expected = [hashlib.sha256() for _ in range(3)]
    for number, some in enumerate([*sizes, [100_000, 70_001, 0]]):
        parts = [rng.bytes(size) for size in some]
        hashes.update([memoryview(bytearray(b"?" + part))[1:] for part in parts])
        for known, part in zip(expected, parts, strict=True):
            known.update(part)
        assert hashes.digests() == [known.digest() for known in expected]
        if number % 5 == 4:
            hashes.restart(number % 3)
            expected[number % 3] = hashlib.sha256()


def test_hashes_want_a_part_for_each_stream() -> None:
    hashes = plain.sha256(2)
    if hashes is None:
        pytest.skip("no instructions for SHA-256 here")
    for parts in ([b"a"], [b"a", b"b", b"c"]):
        with pytest.raises(UsageError, match="for 2 streams"):
            hashes.update(parts)
