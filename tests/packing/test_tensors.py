"""Packing tensors of every kind: dtypes, shapes, values that levels do not suit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_kit import (
    FLOATS,
    Tensors,
    check_exact,
    decode,
    noise,
    safetensors,
    tensor_bytes,
    weights,
)

from p2u.packing.api import pack
from p2u.packing.chunking.treatment import row_length, treatment


def special(dtype: str) -> bytes:
    """All 16-bit patterns; for F32 those above two kinds of low bits."""
    top = np.arange(1 << 16, dtype=np.uint32)
    if dtype != "F32":
        return top.astype(np.uint16).tobytes()
    return np.concatenate([top << 16, top << 16 | 0xBEEF]).astype(np.uint32).tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_float_survives(tmp_path: Path, dtype: str) -> None:
    data = special(dtype)
    elems = len(data) // {"F32": 4}.get(dtype, 2)
    mixed = bytearray(weights(dtype, 256, 128)[2])
    mixed[100 : 100 + 64] = data[-64:]  # NaNs among weights
    zeros = bytearray(weights(dtype, 64, 128)[2])
    zeros[0 : len(zeros) // 2] = bytes(len(zeros) // 2)
    tensors: Tensors = {
        "patterns": (dtype, (elems // 64, 64), data),
        "full": (dtype, (elems,), data),
        "mixed": (dtype, (256, 128), bytes(mixed)),
        "pruned": (dtype, (64, 128), bytes(zeros)),
        "zeros": (dtype, (64, 64), bytes(64 * 64 * len(data) // elems)),
        "scalar": weights(dtype),
        "one": weights(dtype, 1, 1),
        "tall": weights(dtype, 100, 1),
        "wide": weights(dtype, 1, 100),
        "odd": weights(dtype, 7, 11, 13),
        "none": (dtype, (0,), b""),
        "none too": (dtype, (3, 0, 2**40), b""),
    }
    root = tmp_path / "m"
    root.mkdir()
    safetensors(root / "m.safetensors", tensors)
    pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    # What is zero is zero in every state.
    for state in range(3):
        values = np.frombuffer(tensor_bytes(opened, state, "pruned"), FLOATS[dtype])
        assert not values[: 32 * 128].any()
        assert values[32 * 128 :].any()


def test_other_dtypes_are_carried(tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{dtype}.{n}": noise(dtype, item, *shape)
        for n, shape in enumerate([(), (0, 3), (7,), (3, 5, 8), (300, 300)])
        for dtype, item in [
            *(("F64", 8), ("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1), ("U64", 8), ("U32", 4)),
            *(("U16", 2), ("U8", 1), ("BOOL", 1), ("C64", 8), ("F8_E4M3", 1), ("F8_E5M2", 1)),
            *(("UNKNOWN24", 3), ("UNKNOWN256", 32)),
        ]
    }
    tensors["f4"] = noise("F4", 0.5, 6, 6)
    root = tmp_path / "m"
    root.mkdir()
    safetensors(root / "m.safetensors", tensors)
    report = pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    assert opened.states[0] == opened.states[-1]
    assert [u.chunks for u in opened.manifest.updates][1:] == [0, 0]
    assert [s.snr_db for s in report.states] == [None] * 3
    assert report.states[-1].fraction < 1.02
    assert {t.dtype: t.item for t in opened.layout.tensors}["UNKNOWN24"] == 3


def test_floats_that_levels_do_not_pay_for_go_opaque(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    # 16 values all over the range: 4 bits each to an opaque coder, anything to a quantiser.
    values = rng.integers(0, 1 << 32, 16, dtype=np.uint32)
    data = values[rng.integers(0, 16, 300 * 300)].tobytes()
    root = tmp_path / "m"
    root.mkdir()
    safetensors(root / "m.safetensors", {"w": ("F32", (300, 300), data)})
    report = pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    assert [u.chunks for u in opened.manifest.updates] == [2, 0, 0]
    assert report.states[0].fraction < 0.75
    assert report.states[0].snr_db is None


@pytest.mark.parametrize("dead", [25, 150])
def test_dead_channels_have_levels(tmp_path: Path, dead: int) -> None:
    # Training lets channels die: their weights lie tens of octaves below the others' step.
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((256, 512)).astype(np.float32)
    weights[:, :dead] *= np.exp2(-rng.uniform(40, 110, (256, dead))).astype(np.float32)
    safetensors(tmp_path / "m.safetensors", {"w": ("F32", (256, 512), weights.tobytes())})
    report = pack(tmp_path / "m.safetensors", tmp_path / "p", jobs=1)
    assert report.states[0].fraction < 0.12
    alive = 1 - dead / 512
    assert report.states[-1].fraction < 0.86 * alive + 0.97 * (1 - alive)


@settings(max_examples=15)
@given(st.data())
def test_any_small_model(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "m").mkdir()
    tensors: Tensors = {}
    for n in range(data.draw(st.integers(1, 4))):
        dtype = data.draw(st.sampled_from([*FLOATS, "I16", "F64"]))
        shape = tuple(data.draw(st.lists(st.integers(0, 12), max_size=3)))
        size = math.prod(shape) * {"F32": 4, "F64": 8}.get(dtype, 2)
        unit = data.draw(st.binary(min_size=1, max_size=40))
        name = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
        tensors[f"{name}{n}"] = (dtype, shape, (unit * (size // len(unit) + 1))[:size])
    safetensors(root / "m" / "m.safetensors", tensors)
    if not any(shape is not None for _, shape, _ in tensors.values()):
        return
    pack(root / "m", root / "p", jobs=1, bits=data.draw(st.sampled_from([1, 3.5, 6])))
    check_exact(decode(root / "p"), root / "m")


@pytest.mark.parametrize(
    ("shape", "cols"),
    [
        ((1536, 384), 384),
        ((32, 1, 3, 3), 9),
        ((64, 32), 32),
        ((100, 1), 8),
        ((16, 3, 7, 7), 147),
        ((2, 1 << 18), 1 << 18),
        ((2, (1 << 18) + 1), 1 << 16),
        ((3, 3, 3), 27),
    ],
)
def test_rows(shape: tuple[int, ...], cols: int) -> None:
    elems = math.prod(shape)
    if elems < 64:
        assert treatment("BF16", shape, elems).value == "full"
        assert row_length(shape, elems, treatment("BF16", shape, elems)) == elems
    else:
        assert row_length(shape, elems, treatment("BF16", shape, elems)) == cols
