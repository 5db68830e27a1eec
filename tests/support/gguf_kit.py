"""Writes GGUF files as others do, with the quantisers of the package gguf."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from packing_kit import FLOATS, Tensors

from p2u.names.gguf import gguf_name

gguf = pytest.importorskip("gguf")


def values(tensor: tuple[str, tuple[int, ...], bytes]) -> np.ndarray:
    dtype, shape, data = tensor
    return np.frombuffer(data, FLOATS[dtype]).astype(np.float32).reshape(shape)


def write_gguf(path: Path, tensors: dict[str, np.ndarray], kind: str) -> None:
    """A GGUF file with matrices of one type and vectors in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    for name, array in tensors.items():
        wanted = gguf.GGMLQuantizationType["F32" if array.ndim == 1 else kind]
        data = gguf.quants.quantize(array, wanted)
        writer.add_tensor(name, data, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantised(path: Path, tensors: Tensors, kind: str, names: str = "llama.cpp") -> Path:
    """A file as others make it from a model."""
    arrays = {name: values(tensor) for name, tensor in tensors.items()}
    if names == "llama.cpp":
        arrays = {gguf_name(name): array for name, array in arrays.items()}
    elif names == "none":
        arrays = {f"t.{99 - n}": array for n, array in enumerate(arrays.values())}
    write_gguf(path, arrays, kind)
    return path
