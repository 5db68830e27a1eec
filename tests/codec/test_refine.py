"""Refinements in the oracle alone: the text of SPEC.md 6.4 and 6.5 does what it is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.floats import FORMATS, Ints
from oracle.levels import nearest_bin, steps
from oracle.rans import Log
from oracle.refine import COARSE, EXACT, SHIFTED, SPARSE, Head
from oracle.refining import HEADS, Refining, Thrifty, Wild, refinings, state_of
from oracle.samples import FAMILIES, Sample, bits_of

from p2u.codec import core

seeds = st.integers(0, 2**32 - 1)


def decode(r: Refining, payload: bytes, log: Log | None = None) -> Ints:
    memory = r.memory(r.previous())
    parts = oracle.decode_chunk(payload, r.sample.dtype, r.sample.item, memory, log)
    return r.f.load(b"".join(parts))


def refine(r: Refining, seed: int = 0) -> tuple[Ints, Ints]:
    """The elements afterwards, and which of them are patched."""
    log: Log = []
    out = decode(r, r.payload(oracle.Choices(seed)), log)
    return out, dict(log)["patched"]


@given(refinings, seeds)
def test_any_bytes_lead_to_the_weights_or_their_cells(r: Refining, seed: int) -> None:
    found, _ = refine(r, seed)
    weights = r.sample.weights()
    if r.head.has(EXACT):
        assert (found == weights).all()
        return
    # From here on to the exact floats nothing has to be patched but by choice.
    octave = np.maximum(weights % r.f.sign >> r.f.mant, 1) - r.f.bias
    e = np.maximum(r.steps() - r.head.to, octave - 7)
    same = found == weights
    cells = [np.floor(np.minimum(steps(r.f, b, e), 2.0**40)) for b in (found, weights)]
    assert (same | (cells[0] == cells[1])).all()
    assert (same | (found // r.f.sign == weights // r.f.sign)).all()
    zero = weights % r.f.sign == 0
    assert same[zero].all(), "zeros are zeros"
    assert same[steps(r.f, weights, r.steps()) >= 127.5].all()


@given(refinings, seeds)
def test_states_of_cells_are_their_middles(r: Refining, seed: int) -> None:
    """However many refinements led there."""
    head = replace(r.head, flags=r.head.flags & ~EXACT)
    r = replace(r, before="state", head=head if head.to > head.start else HEADS[0])
    found, patched = refine(r, seed)
    expected = state_of(r.f, r.sample.weights(), r.steps(), r.head.to, r.first)
    assert (found == np.where(patched, r.sample.weights(), expected)).all()


@given(refinings)
def test_hardly_anything_of_a_state_is_patched(r: Refining) -> None:
    r = replace(r, before="state" if r.before == "noise" else r.before)
    if r.before == "other" or (r.before == "codes" and not r.head.has(SHIFTED)):
        return
    log: Log = []
    decode(r, r.payload(Thrifty(0)), log)
    patched, weights = dict(log)["patched"], r.sample.weights()
    few = weights % r.f.sign > r.f.inf  # NaNs with bits below T
    if not r.head.has(EXACT) and not r.head.has(SPARSE):
        few |= weights % r.f.sign == 0
    if r.head.start == 0:
        own = np.where(weights >= r.f.sign, -1, 1) * nearest_bin(steps(r.f, weights, r.steps()))
        before = state_of(r.f, r.previous(), r.steps(), 0)
        code = nearest_bin(steps(r.f, before, r.steps())) * np.where(before >= r.f.sign, -1, 1)
        few |= np.abs(own - code) > 127
    assert not (patched & ~few).any()


@given(refinings, seeds)
def test_decoders_write_down_all_choices(r: Refining, seed: int) -> None:
    payload = r.payload(oracle.Choices(seed))
    log: Log = []
    decode(r, payload, log)
    replay = oracle.Replay(log)
    assert replay.head(r.head.start, 0) == r.head
    assert r.payload(replay) == payload
    assert replay.used_up()


@given(refinings, seeds)
def test_fields_that_no_writer_writes_are_read(r: Refining, seed: int) -> None:
    """Any fields on any bytes: decoded to something, without a warning of NumPy's."""
    with np.errstate(all="raise", under="ignore"):
        decode(r, r.payload(Wild(seed)))


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@given(refinings, seeds)
def test_fuzz(r: Refining, seed: int) -> None:
    test_any_bytes_lead_to_the_weights_or_their_cells.hypothesis.inner_test(r, seed)
    test_states_of_cells_are_their_middles.hypothesis.inner_test(r, seed)
    test_hardly_anything_of_a_state_is_patched.hypothesis.inner_test(r)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_every_head(dtype: str, family: str) -> None:
    """Each head once in all dtypes and families together, on a state."""
    number = sorted(FAMILIES).index(family) * 3 + sorted(FORMATS).index(dtype)
    for i, head in enumerate(HEADS[number :: 3 * len(FAMILIES)]):
        sample = Sample(dtype, family, ((13, 5), (1, 1)), i)
        found, _ = refine(Refining(sample, head, "state", -6 if i % 2 else None, i), i)
        if head.has(EXACT):
            assert (found == sample.weights()).all(), head


def through(dtype: str, weights: Ints, cols: int, step: int, *heads: Head) -> list[int]:
    """All refinements, one after the other, to the floats; the number of patches of each."""
    f, n = FORMATS[dtype], len(weights)
    exponents = [step] * -(-n // cols)
    segment = core.Segment(f.store(weights), n, cols)
    state, patches = state_of(f, weights, np.full(n, step), heads[0].start), []
    for number, head in enumerate(heads):
        before = f.store(state)
        choices = Thrifty(number)
        payload = oracle.encode_refinement(dtype, [segment], before, exponents, head, choices)
        log: Log = []
        memory = core.Segment(bytearray(before), n, cols)
        state = f.load(oracle.decode_chunk(payload, dtype, f.size, [memory], log)[0])
        patches.append(int(dict(log)["patched"].sum()))
    assert (state == weights).all() or not heads[-1].has(EXACT)
    return patches


CHAIN = (Head(0, 0, 2, 2), Head(0, 2, 2, 4), Head(0, 4, 4, 11), Head(EXACT, 11, 11, 12))
SHORT = (Head(0, 0, 4, 4), Head(EXACT, 4, 4, 4))
DIRECT = (Head(EXACT, 0, 4, 4),)


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@pytest.mark.parametrize("heads", [CHAIN, SHORT, DIRECT])
@pytest.mark.parametrize("octaves", [0, 20, 60, 100])
def test_rows_far_below_their_step(dtype: str, heads: tuple[Head, ...], octaves: int) -> None:
    """Channels that died in training: octave symbols reach every float, down to subnormals."""
    rng = np.random.default_rng(octaves)
    weights = bits_of(dtype, rng.normal(0, 1, 600) * 2.0**-octaves)
    weights += weights % FORMATS[dtype].sign == 0  # the least float
    assert through(dtype, weights, 50, 0, *heads) == [0] * len(heads)


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@pytest.mark.parametrize("step", ["lowest", "highest"])
def test_the_extreme_steps(dtype: str, step: str) -> None:
    f, rng = FORMATS[dtype], np.random.default_rng(1)
    e = f.e_min if step == "lowest" else f.e_max
    weights = bits_of(dtype, rng.uniform(-127.4, 127.4, 900) * 2.0**e)
    weights = weights[weights % f.sign > 0]
    longest = (Head(0, 0, 8, 8), Head(0, 8, 8, 15), Head(EXACT, 15, 15, 15))
    once = (Head(0, 0, 8, 15), Head(EXACT, 15, 15, 15))
    for heads in (CHAIN, (Head(EXACT, 0, 8, 8),), longest, once):
        assert through(dtype, weights, 60, e, *heads) == [0] * len(heads)


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@pytest.mark.parametrize("heads", [CHAIN, SHORT, DIRECT])
def test_subnormals(dtype: str, heads: tuple[Head, ...]) -> None:
    f = FORMATS[dtype]
    rng = np.random.default_rng(2)
    u = rng.integers(1, 1 << (f.mant + 2), 700)
    for e in (f.e_min, f.e_min + 9):
        weights = u + f.sign * rng.integers(0, 2, 700)
        assert through(dtype, weights, 70, e, *heads) == [0] * len(heads)


@pytest.mark.parametrize("sparse", [0, SPARSE])
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_zeros_of_both_signs(dtype: str, sparse: int) -> None:
    """Half of the elements: patched in the first cells, or listed; kept from then on."""
    rng = np.random.default_rng(3)
    weights = bits_of(dtype, rng.normal(0, 1, 800) * rng.choice([-0.0, 0.0, 1, 1], 800))
    zeros = int((weights % FORMATS[dtype].sign == 0).sum())
    heads = (Head(sparse, 0, 3, 3), Head(sparse, 3, 3, 5), Head(EXACT | sparse, 5, 5, 5))
    assert through(dtype, weights, 80, -4, *heads) == [0 if sparse else zeros, 0, 0]
    for flags in (EXACT, EXACT | COARSE):
        assert through(dtype, weights, 80, -4, Head(flags | sparse, 0, 4, 4)) == [0]


def test_nans_and_infinities() -> None:
    """Exact from the base on, whatever they hold; patched only where ``T`` cuts bits off."""
    for dtype, f in FORMATS.items():
        u = np.concatenate([f.inf + np.arange(4), [f.sign - 1, f.inf + f.inf // 2 % (1 << f.mant)]])
        weights = np.concatenate([u, u + f.sign, bits_of(dtype, [0.5, -1.5])])
        for head in (Head(EXACT, 0, 4, 4), Head(EXACT | SHIFTED, 0, 1, 1), Head(EXACT, 9, 9, 15)):
            assert through(dtype, weights, 14, -4, head)[0] <= 10


def test_halves_within_singles() -> None:
    """Rows of binary16 values in F32: thirteen trailing zeros leave three bits of the low plane."""
    rng = np.random.default_rng(4)
    weights = bits_of("F32", rng.normal(0, 0.1, 900).astype("<f2").astype("<f4"))
    assert through("F32", weights, 90, -6, *CHAIN) == [0] * 4
    f = FORMATS["F32"]
    segment = core.Segment(f.store(weights), 900, 90)
    before = f.store(state_of(f, weights, np.full(900, -6), 0))
    head, sizes = Head(EXACT, 0, 4, 4), []
    for trailing in (0, 13, 14):
        choices = Thrifty(0, trailing)
        payload = oracle.encode_refinement("F32", [segment], before, [-6] * 10, head, choices)
        memory = core.Segment(bytearray(before), 900, 90)
        assert oracle.decode_chunk(payload, "F32", 4, [memory]) == [bytes(segment.mem)]
        sizes.append(len(payload))
    assert abs(sizes[0] - sizes[1] - 900 * 13 / 8) < 300, "tables are random"
    assert sizes[2] > sizes[1] + 900, "half of the floats are patched"


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 5.4e-20, float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_constants_and_single_elements(dtype: str, value: float) -> None:
    for count in (1, 77):
        weights = bits_of(dtype, np.full(count, value))
        for heads in (CHAIN, DIRECT, (Head(EXACT | SPARSE | COARSE, 0, 5, 7),)):
            through(dtype, weights, 7, -3, *heads)


def test_the_example_of_the_text() -> None:
    weights = np.array([0x3C4A, 0xBC4A])
    f = FORMATS["BF16"]
    segment = core.Segment(f.store(weights), 2, 2)
    before = f.store(state_of(f, weights, np.full(2, -9), 0))
    head = Head(0, 0, 4, 4)
    payload = oracle.encode_refinement("BF16", [segment], before, [-9], head, Thrifty(0))
    log: Log = []
    memory = core.Segment(bytearray(before), 2, 2)
    (after,) = oracle.decode_chunk(payload, "BF16", 2, [memory], log)
    assert f.load(after).tolist() == [0x3C4B, 0xBC4B]
    assert dict(log)["positions"].tolist() == [13, 2]
    assert through("BF16", weights, 2, -9, Head(EXACT, 4, 4, 4)) == [0]
