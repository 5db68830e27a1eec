"""Benchmarks: their decoder gives the publisher's bytes, with the public parts of P2U only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from decoding import decoder

import p2u
from p2u_lab.tensorfiles import WEIGHTS, write_safetensors


def model(folder: Path, seed: int) -> Path:
    """A file of two matrices; another seed changes a few of the weights."""
    folder.mkdir()
    weights = np.random.default_rng(0).normal(0, 0.05, (300, 256)).astype(np.float32)
    weights[::7] += np.float32(1e-4 * seed)
    tensors = {"a.weight": weights, "b.weight": weights[:100].astype(np.float16)}
    write_safetensors(folder / WEIGHTS, tensors, {})
    return folder / WEIGHTS


@pytest.mark.parametrize("threads", [1, 2])
def test_all_updates_from_nothing(tmp_path: Path, threads: int) -> None:
    source = model(tmp_path / "model", 0)
    p2u.pack(source, tmp_path / "package")
    assert decoder(tmp_path / "package", threads=threads)() == source.read_bytes()


def test_an_update_from_a_parent(tmp_path: Path) -> None:
    old, new = model(tmp_path / "old", 0), model(tmp_path / "new", 1)
    p2u.pack(new, tmp_path / "package", parent=old)
    assert old.read_bytes() != new.read_bytes()
    assert decoder(tmp_path / "package", old)() == new.read_bytes()
