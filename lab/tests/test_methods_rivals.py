"""Rivals with codecs of their own: what they transmit comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from model_files import model, read

from p2u.errors import IntegrityError
from p2u_lab.base import MissingDataError
from p2u_lab.methods import METHODS
from p2u_lab.methods.codecs import Rival, Zstd, lmz_settings, main_dtype
from p2u_lab.methods.hqq import HQQ
from p2u_lab.methods.lossless import Compressed
from p2u_lab.methods.nf4 import NF4, TABLE, dynamic_table


def gaussian(*shape: int) -> np.ndarray:
    return (0.05 * np.random.default_rng(3).standard_normal(shape)).astype(np.float32)


# ---------------------------------------------------------------- lossless


@pytest.mark.parametrize("kind", ["F32", "BF16", "npz"])
@pytest.mark.parametrize("name", ["plain", "zstd", "zipnn", "lmz"])
def test_lossless(tmp_path: Path, name: str, kind: str) -> None:
    if name in ("zipnn", "lmz"):
        pytest.importorskip(name)
    source = model(tmp_path / "model", kind)
    total = sum(p.stat().st_size for p in source.iterdir())
    work = tmp_path / "work"
    work.mkdir()
    (point,) = METHODS[name]().points(source, work, [4], None)
    assert (point.method, point.state, point.bits, point.exact) == (name, "exact", None, True)
    assert point.folder == source
    assert point.bytes == total if name == "plain" else point.bytes < total - 4500


def test_what_does_not_come_back_is_no_result(tmp_path: Path) -> None:
    class Liar(Zstd):
        def unpack(self, packed: bytes, threads: int):
            call = super().unpack(packed, threads)
            return lambda: call()[:-1] + b"?"

    source = model(tmp_path / "model", "F32")
    with pytest.raises(IntegrityError, match="does not give back"):
        next(Compressed("liar", lambda: [Liar(3)]).points(source, tmp_path, [], None))


def test_the_best_setting_counts(tmp_path: Path) -> None:
    source = model(tmp_path / "model", "F16")

    def size(*levels: int) -> int:
        settings: list[Rival] = [Zstd(level) for level in levels]
        (point,) = Compressed("z", lambda: settings).points(source, tmp_path, [], None)
        return point.bytes

    assert size(1, 19) == min(size(1), size(19))
    assert len({r.setting for r in lmz_settings()}) == 3


def test_the_main_dtype(tmp_path: Path) -> None:
    assert main_dtype(model(tmp_path / "a", "F16") / "model.safetensors") == "fp16"
    assert main_dtype(model(tmp_path / "b", "npz") / "model.npz") == "fp32"


# ---------------------------------------------------------------- NF4


def test_nf4_by_hand() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[0, :4] = [2, -2, 0.17, 1.11]  # 0.085 and 0.555 of the maximum
    weights[1, :2] = [-1, 0.2]
    codes, scales = NF4().encode(weights, 4, b"")
    assert codes[:4].tolist() == [15, 0, 8, 13]
    assert set(codes[4:64]) == {7}
    assert codes[64:66].tolist() == [0, 9]
    assert len(scales) == 4 + 4 + 2  # mean, one group of maxima, two maxima
    out = NF4().decode(codes, weights.shape, 4, b"", scales)
    assert out[0, :2] == pytest.approx([2, -2], rel=0.01)
    assert out[1, 0] == pytest.approx(-1, rel=0.01)
    assert (out[weights == 0] == 0).all()


@pytest.mark.parametrize("shape", [(7, 13), (300, 1000)])
def test_nf4_takes_the_nearest_value(shape: tuple[int, int]) -> None:
    weights = gaussian(*shape)
    codes, scales = NF4().encode(weights, 4, b"")
    blocks = -(-weights.size // 64)
    assert len(scales) == 4 + blocks + 4 * -(-blocks // 256)
    out = NF4().decode(codes, shape, 4, b"", scales).reshape(-1)
    flat = weights.reshape(-1)
    top = np.repeat(np.abs(np.pad(flat, (0, -flat.size % 64)).reshape(-1, 64)).max(1), 64)
    nearest = np.abs(flat[:, None] / top[: flat.size, None] - TABLE).argmin(1)
    assert (codes == nearest).mean() > 0.9999
    # A maximum's 8-bit code is off by half of 0.9 / 64 of the largest distance to their mean.
    most = 0.45 / 64 * np.abs(top - top.mean()).max() * 1.01
    assert np.abs(out - TABLE[nearest] * top[: flat.size]).max() < most


def test_the_dynamic_table() -> None:
    table = dynamic_table()
    assert table.size == len(set(table.tolist())) == 256
    assert table[[0, -1]].tolist() == pytest.approx([-0.99296875, 1])
    assert 0.0 in table
    # Fractions 0.1 to 1 of 10^-6 to 1, each exponent with twice as many as the one below.
    counts = [int(((table > 10.0 ** (e - 7)) & (table < 10.0 ** (e - 6))).sum()) for e in range(7)]
    assert counts == [1, 2, 4, 8, 16, 32, 64]


# ---------------------------------------------------------------- with packages of their own


@pytest.mark.slow
def test_hqq() -> None:
    pytest.importorskip("hqq")
    weights = gaussian(48, 36)
    errors = []
    for bits in (2, 4, 8):
        codes, scales = HQQ().encode(weights, bits, b"")
        assert codes.max() < 2**bits
        assert len(scales) == 2 * 2 * weights.size // 64
        out = HQQ().decode(codes, weights.shape, bits, b"", scales)
        assert out.shape == weights.shape
        errors.append(float(np.square(out - weights).mean() / np.square(weights).mean()))
    assert errors[0] < 0.3
    assert errors[1] < 0.02
    assert errors[2] < 1e-3


def test_hqq_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hqq.core.quantize", None)
    with pytest.raises(MissingDataError, match="hqq termcolor"):
        HQQ().encode(gaussian(8, 8), 4, b"")


@pytest.mark.parametrize("name", ["nncodec", "nncodec+dq"])
@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_nncodec(tmp_path: Path, name: str, kind: str) -> None:
    pytest.importorskip("nncodec.nnc_core")
    source = model(tmp_path / "model", kind)
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    original = read(source)
    work = tmp_path / "work"
    work.mkdir()
    errors = []
    sizes = []
    for point in METHODS[name]().points(source, work, [5, 3], None):
        now = read(point.folder)
        assert {p.name for p in point.folder.iterdir()} == set(before)
        assert np.array_equal(now["fc.bias"], original["fc.bias"])
        error = np.square(now["fc.weight"] - original["fc.weight"]).mean()
        errors.append(float(error / np.square(original["fc.weight"]).mean()))
        sizes.append(point.bytes)
    assert errors[1] < errors[0] / 4 < 0.02
    weights = 16 * 27 + 65 * 40
    assert weights * 2 / 8 * 0.7 < sizes[1] - sizes[0] < weights * 2 / 8 * 1.3
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before
    assert not [n for n in sys.modules if n == "nncodec.framework"]


def test_nncodec_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in sys.modules if n.startswith("nncodec")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nncodec", None)
    with pytest.raises(MissingDataError, match="no-deps nncodec"):
        next(METHODS["nncodec"]().points(model(tmp_path / "model", "F32"), tmp_path, [4], None))
