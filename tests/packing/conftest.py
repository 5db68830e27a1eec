"""Fixtures of the tests of packing: small models and a package."""

from __future__ import annotations

from pathlib import Path

import pytest
from packing_kit import Tensors, noise, safetensors, weights

from p2u.packing.api import pack
from p2u.packing.report import PackReport


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory with a bit of everything, not in a forward pass's order."""
    root = tmp_path_factory.mktemp("models") / "small model"
    (root / "1_Pooling").mkdir(parents=True)
    (root / "config.json").write_text('{"a": 1}')
    (root / "empty.txt").write_bytes(b"")
    (root / "1_Pooling" / "config.json").write_text("{}" * 100)
    tensors: Tensors = {}
    for layer in (1, 10, 2):
        tensors[f"layers.{layer}.norm.weight"] = weights("F32", 96, seed=layer)
        tensors[f"layers.{layer}.mlp.weight"] = weights("F32", 96, 64, seed=layer)
        tensors[f"layers.{layer}.conv.weight"] = weights("BF16", 24, 1, 3, 3, seed=layer)
        tensors[f"layers.{layer}.count"] = noise("I64", 8)
    tensors["embed.weight"] = weights("F16", 400, 64)
    tensors["head.weight"] = weights("BF16", 128, 257)
    tensors["mask"] = ("BOOL", (50,), bytes([0, 1] * 25))
    tensors["nothing"] = ("F32", (0, 8), b"")
    safetensors(root / "model.safetensors", tensors)
    return root


@pytest.fixture(scope="session")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PackReport, Path]:
    dst = tmp_path_factory.mktemp("packages") / "p"
    return pack(model, dst, jobs=2), dst


@pytest.fixture
def first() -> Tensors:
    """Tensors of a first version, of many dtypes."""
    return {
        "embed": weights("BF16", 200, 64, seed=1),
        "layers.0.w": weights("BF16", 96, 128, seed=2),
        "layers.0.norm": weights("F32", 128, seed=3),
        "layers.1.w": weights("F32", 96, 128, seed=4),
        "layers.1.h": weights("F16", 40, 33, seed=5),
        "count": noise("I64", 8, 4),
        "quantised": noise("F8_E4M3", 1, 40, 50),
    }
