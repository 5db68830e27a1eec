"""Direct quantisation: the codes, their bytes, and the folders made of them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_files import model, read, weights_of, write_safetensors

from p2u.codec import core
from p2u.errors import UnsupportedError
from p2u_lab.methods import METHODS
from p2u_lab.methods.casts import Cast
from p2u_lab.methods.packing import low_bits, pack_codes, top_bytes, unpack_codes
from p2u_lab.methods.quantisers import Affine, ChannelAbsMax, Quantiser, TensorMinMax
from p2u_lab.methods.tally import Entropy, Plain, Stream
from p2u_lab.methods.tensors import Tensors

QUANTISERS: list[Quantiser] = [
    TensorMinMax(),
    ChannelAbsMax(),
    Affine("minmax-channel", None, range(2, 17)),
    Affine("group32", 32, range(2, 17)),
]


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_packed_codes_come_back_and_have_no_gaps(bits: int, count: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint16)
    packed = pack_codes(codes, bits)
    assert len(packed) == -(-count * bits // 8) or bits > 8
    assert len(packed) == (count if bits > 8 else 0) + -(-count * (bits - 8 * (bits > 8)) // 8)
    assert np.array_equal(unpack_codes(packed, bits, count), codes)
    split = top_bytes(codes, bits).tobytes(), low_bits(codes, bits)
    assert packed == b"".join(split) or bits <= 8


def test_how_codes_lie() -> None:
    assert pack_codes(np.array([1, 2, 3, 0, 1], np.uint16), 2) == bytes([0b00111001, 0b01])
    assert pack_codes(np.array([0xABC, 0x123], np.uint16), 12) == bytes([0xAB, 0x12, 0x3C])


def round_trip(q: Quantiser, weights: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights as received, codes, and bytes of scales."""
    common = q.learn([weights], bits)
    codes, scales = q.encode(weights, bits, common)
    out = q.decode(codes, weights.shape, bits, common, scales)
    return out, codes, len(common) + len(scales)


def test_minmax_by_hand() -> None:
    weights = np.array([[-1, 0.9, 2], [3.4, 4.6, 5]], np.float32)
    out, codes, size = round_trip(TensorMinMax(), weights, 2)
    assert codes.tolist() == [0, 1, 2, 2, 3, 3]  # 0.95 and 1.5 (to even), in steps of 2 from -1
    assert out.tolist() == [[-1, 1, 3], [3, 5, 5]]
    assert size == 8


def test_absmax_by_hand() -> None:
    weights = np.array([[-3, 1.4, 0], [0, 0, 0], [0.5, 0.25, 1.5]], np.float32)
    out, codes, size = round_trip(ChannelAbsMax(), weights, 3)
    assert codes.tolist() == [0, 4, 3, 3, 3, 3, 4, 3, 6]  # 0.25 is half a step: to even
    assert out.tolist() == [[-3, 1, 0], [0, 0, 0], [0.5, 0, 1.5]]
    assert size == 3 * 2


def test_groups_by_hand() -> None:
    weights = np.array([[-1, 0, 2, 3, 6]], np.float32)
    out, codes, size = round_trip(Affine("group3", 3, [2]), weights, 2)
    # Steps 1 and 2, zero points 1 and 0; the second group is filled up with a 0.
    assert codes.tolist() == [0, 1, 3, 2, 3]
    assert out.tolist() == [[-1, 0, 2, 4, 6]]
    assert size == 2 * 2 + 1


@pytest.mark.parametrize("q", QUANTISERS, ids=lambda q: q.name)
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12, 16])
@pytest.mark.parametrize("seed", range(4))
def test_no_weight_is_off_by_more_than_half_a_step(q: Quantiser, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((24, 100)) * np.exp(rng.standard_normal((24, 1)))
    weights[3] = 0
    weights[4] = np.abs(weights[4])
    weights = weights.astype(np.float32)
    out, codes, _ = round_trip(q, weights, bits)
    assert codes.dtype == np.uint16
    assert codes.max() < 2**bits
    low, high = weights.min(), weights.max()
    steps = np.full(weights.shape, (high - low) / (2**bits - 1))
    if isinstance(q, ChannelAbsMax):
        steps[:] = np.abs(weights).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    elif isinstance(q, Affine):
        cut = [slice(at, at + 32) for at in range(0, 100, 32)] if q.name == "group32" else [...]
        for part in cut:
            own = weights[:, part] if part is not ... else weights
            span = np.maximum(own.max(1), 0) - np.minimum(own.min(1), 0)
            steps[:, part] = span[:, None] / (2**bits - 1)
    # Scales of 11 bits are rounded up: by 2^-10 at most, and by fp16's least number.
    most = steps / 2 * (1 + 2**-9) + 2.0**-24 * (bits <= 8) + np.abs(weights) * 2**-20
    assert (np.abs(out - weights) <= most).all()
    assert (out[3] == 0).all() or isinstance(q, TensorMinMax)


def test_scales_that_are_too_large() -> None:
    with pytest.raises(UnsupportedError, match="16 bits"):
        ChannelAbsMax().encode(np.full((1, 8), 1e9, np.float32), 4, b"")
    with pytest.raises(UnsupportedError, match="fp16"):
        Cast("fp16").encode(np.full((1, 8), 1e5, np.float32), 16, b"")


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_casts(name: str) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    cast = Cast(name)
    codes, scales = cast.encode(weights, 16, b"")
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bf16" else np.float16)
    assert scales == b""
    assert codes.tobytes() == weights.astype(dtype).tobytes()
    out = cast.decode(codes, weights.shape, 16, b"", b"")
    assert np.array_equal(out, weights.astype(dtype).astype(np.float32))
    coded = cast.entropy_coded(codes, 16)
    assert coded is not None
    back = bytearray(codes.nbytes)
    code = "BF16" if name == "bf16" else "F16"
    core.apply(coded, code, 2, [core.Segment(back, codes.size, 1 << 12)])
    assert bytes(back) == codes.tobytes()
    assert len(coded) < codes.nbytes


def test_the_entropy_coder_s_size_is_one_that_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    real = core.encode_opaque

    def spy(item: int, segments: Any) -> core.Encoded:
        out = real(item, segments)
        made.extend(out.payloads)
        return out

    monkeypatch.setattr(core, "encode_opaque", spy)
    rng = np.random.default_rng(1)
    codes = np.clip(rng.normal(2048, 300, 100_000), 0, 4095).astype(np.uint16)
    entropy, plain = Entropy(), Plain()
    for tally in (entropy, plain):
        tally.codes(TensorMinMax(), codes, 12, pack_codes(codes, 12))
    (payload,) = made
    back = bytearray(codes.size)
    core.apply(payload, "U8", 1, [core.Segment(back, codes.size, codes.size)])
    assert bytes(back) == top_bytes(codes, 12).tobytes()
    nothing = Stream().close()
    assert entropy.close() == len(payload) + len(low_bits(codes, 12)) + nothing
    assert plain.close() == 150_000
    counts = np.bincount(codes >> 4)
    p = counts[counts > 0] / codes.size
    assert len(payload) < -(p * np.log2(p)).sum() * codes.size / 8 * 1.01 + 300


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "npz", "onnx", "gguf"])
@pytest.mark.parametrize("name", ["minmax-tensor", "absmax-channel", "group32"])
def test_folders(tmp_path: Path, kind: str, name: str) -> None:
    source = model(tmp_path / "model", kind)
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    original = read(source)
    work = tmp_path / "work"
    work.mkdir()
    errors = []
    for point in METHODS[name]().points(source, work, [4, 8, 3.5, 40], None):
        assert {p.name for p in point.folder.iterdir()} == set(before)
        assert {p.name: p.stat().st_size for p in point.folder.iterdir()} == {
            n: len(data) for n, data in before.items()
        }
        assert (point.folder / "vocab.txt").read_bytes() == before["vocab.txt"]
        assert not point.exact
        now = read(point.folder)
        assert np.array_equal(now["fc.bias"], original["fc.bias"])
        assert np.array_equal(now["t"], original["t"])  # fewer than 64 weights
        errors.append(float(np.abs(now["fc.weight"] - original["fc.weight"]).max()))
        assert len(np.unique(now["fc.weight"])) > 10
        if kind == "npz":
            with zipfile.ZipFile(point.folder / "model.npz") as archive:
                assert archive.testzip() is None
    assert len(errors) == 6
    assert 0 < errors[3] < errors[0] / 8 < 0.02
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_bytes_are_those_of_codes_scales_and_rest(tmp_path: Path) -> None:
    source = model(tmp_path / "model", "F32")
    total = sum(p.stat().st_size for p in source.iterdir())
    codes = 16 * 27 + 65 * 40
    rest = total - 4 * codes

    def sizes(name: str) -> dict[str, int]:
        work = tmp_path / name
        work.mkdir()
        found = METHODS[name]().points(source, work, [3, 4], None)
        return {f"{p.method} {p.state}": p.bytes for p in found}

    assert sum(map(len, Tensors(source).rest())) == rest
    minmax = sizes("minmax-tensor")
    assert minmax["minmax-tensor 4bit"] == rest + codes // 2 + 2 * 8
    assert minmax["minmax-tensor 3bit"] == rest + codes * 3 // 8 + 2 * 8
    assert minmax["minmax-tensor+zstd 4bit"] < minmax["minmax-tensor 4bit"] - 4500  # the vocabulary
    assert minmax["minmax-tensor+entropy 4bit"] < minmax["minmax-tensor 4bit"] - 4500
    group = sizes("group32")
    groups = 16 + 65 * 2  # 27 weights are one group, 40 are two
    assert group["group32 4bit"] == rest + codes // 2 + groups * 2 + groups // 2
    assert sizes("fp16")["fp16 fp16"] == rest + codes * 2


def test_weights_that_are_not_finite_stay(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    tensors = weights_of("F32")
    tensors["fc.weight"][3, 4] = np.inf
    write_safetensors(source / "model.safetensors", tensors, "F32")
    assert [span.name for span in Tensors(source).coarse] == ["conv.weight"]
    tensors["conv.weight"][0] = np.nan
    write_safetensors(source / "model.safetensors", tensors, "F32")
    with pytest.raises(UnsupportedError, match="no tensor"):
        Tensors(source)


def test_casts_are_for_fp32(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="casts"):
        next(METHODS["bf16"]().points(model(tmp_path / "model", "F16"), tmp_path, [], None))


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model(tmp_path / "model", "BF16")

    def all_points(name: str) -> list[tuple[str, int, bytes]]:
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        return [
            (p.method, p.bytes, (p.folder / "model.safetensors").read_bytes())
            for p in METHODS[name]().points(source, work / name, [3], None)
            if "+" not in p.method
        ]

    for name in ("minmax-tensor", "group32"):
        (tmp_path / "work" / name).mkdir(parents=True)
        whole = all_points(name)
        (tmp_path / "work" / name).rename(tmp_path / "work" / f"{name}-1")
        (tmp_path / "work" / name).mkdir()
        with monkeypatch.context() as patch:
            patch.setattr("p2u_lab.methods.tensors.BLOCK", 1)
            assert all_points(name) == whole
