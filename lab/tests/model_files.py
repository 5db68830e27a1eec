"""Small model folders in all formats, and their tensors read back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from p2u.formats import scan_model

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def weights_of(dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"conv.weight": (16, 3, 3, 3), "fc.weight": (65, 40), "fc.bias": (65,), "t": (7, 9)}
    return {n: (0.1 * rng.standard_normal(s)).astype(TYPES[dtype]) for n, s in shapes.items()}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    header, at = {}, 0
    for name, array in tensors.items():
        span = [at, at + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        at += array.nbytes
    text = json.dumps(header).encode()
    body = b"".join(a.tobytes() for a in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def model(folder: Path, kind: str) -> Path:
    """A small model with a vocabulary next to it."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("word\n" * 1000)
    tensors = weights_of(kind if kind in TYPES else "F32")
    if kind == "npz":
        np.savez(folder / "model.npz", **tensors)
    elif kind == "onnx":
        onnx = pytest.importorskip("onnx")
        initializers = [onnx.numpy_helper.from_array(a, n) for n, a in tensors.items()]
        graph = onnx.helper.make_graph([], "g", [], [], initializers)
        onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    elif kind == "gguf":
        gguf = pytest.importorskip("gguf")
        writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
        for name, array in tensors.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        write_safetensors(folder / "model.safetensors", tensors, kind)
    return folder


def read(folder: Path) -> dict[str, np.ndarray]:
    found = scan_model(str(folder))
    out = {}
    for span in found.spans:
        raw = np.fromfile(found.locate(span.file), np.uint8, span.length, offset=span.offset)
        out[span.name] = raw.view(TYPES[span.dtype]).astype(np.float32).reshape(span.shape)
    return out
