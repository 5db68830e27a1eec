"""How the golden files of format version 1 were made. They are frozen: this never overwrites them.

    python tests/golden/make_v1.py FOLDER

A package that the packer of the day made of a small model with every dtype and odd value, chunks
with what it did not use yet (base codes beside the nearest bin), and the SHA-256 of each state.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import p2u
from p2u.codec import core

DTYPES = {"F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}


def weights(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Normal weights with a few of everything odd."""
    w = rng.normal(0, 0.05, shape) * np.exp(
        rng.normal(0, 0.4, (shape[0],) + (1,) * (len(shape) - 1))
    )
    w = w.astype(dtype)
    flat = w.reshape(-1)
    odd = [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        3.0,
        -17.5,
        float(ml_dtypes.finfo(dtype).smallest_subnormal),
    ]
    flat[rng.choice(flat.size, len(odd), replace=False)] = np.array(odd, dtype)
    return w


def model(folder: Path) -> None:
    """A model directory."""
    rng = np.random.default_rng(20261121)
    folder.mkdir(parents=True)
    tensors = {
        "embed.weight": weights(rng, (300, 48), DTYPES["BF16"]),
        "layer.0.weight": weights(rng, (160, 96), DTYPES["F32"]),
        "layer.1.weight": weights(rng, (160, 96), DTYPES["F16"]),
        "layer.2.born_in_half": weights(rng, (160, 96), DTYPES["F16"]).astype("f4"),
        "conv.depthwise.weight": weights(rng, (40, 1, 3, 3), DTYPES["BF16"]),
        "layer.0.bias": rng.normal(0, 1, 64).astype("f4"),
        "pruned.weight": (
            np.where(rng.random((64, 64)) < 0.1, weights(rng, (64, 64), DTYPES["F32"]), 0)
        ).astype("f4"),
        "double": rng.normal(0, 1, (5, 7)),
        "position_ids": np.arange(77)[None],
        "mask": rng.random((9, 9)) < 0.5,
        "bytes": rng.integers(0, 256, 100, np.uint8),
        "fp8": rng.normal(0, 1, (8, 8)).astype(ml_dtypes.float8_e4m3fn),
        "scalar": np.array(1.5, "f4"),
        "empty": np.zeros((0, 4), "f4"),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "golden"})
    (folder / "config.json").write_text('{"model_type": "golden"}\n')


def chunks() -> list[dict[str, object]]:
    """Float chunks with random base codes, at every kind of level."""
    rng = np.random.default_rng(7)
    out: list[dict[str, object]] = []
    for dtype, kind in DTYPES.items():
        for levels in ([0], [4, 0], [2, 5, 0]):
            w = weights(rng, (130, 9), kind)
            segments = [core.Segment(w.tobytes(), w.size, 9)]
            scales = core.row_scales(dtype, -61, segments)
            codes = rng.integers(-9, 10, w.size).astype(np.int16)
            made = core.encode(dtype, segments, scales, levels, codes=codes.tobytes())
            state = bytearray(w.nbytes)
            digests = []
            for payload in made.payloads:
                core.apply(
                    payload, dtype, kind.itemsize, [core.Segment(state, w.size, 9)], core.SCALAR
                )
                digests.append(hashlib.sha256(state).hexdigest())
            assert state == w.tobytes()
            texts = [base64.b64encode(p).decode() for p in made.payloads]
            out.append({"dtype": dtype, "item": kind.itemsize, "elems": w.size, "cols": 9,
                        "payloads": texts, "sha256": digests})  # fmt: skip
    return out


def main() -> None:
    """Write the golden files to a new folder."""
    folder = Path(sys.argv[1])
    if folder.exists():
        raise SystemExit(f"{folder} exists: golden files are never made again")
    model(folder / "model")
    p2u.pack(folder / "model", folder / "package", blob_size=16 << 10, name="golden v1")
    (folder / "chunks.json").write_text(json.dumps(chunks(), indent=1) + "\n")
    digests = {}
    for state in ("base", "8bit", "exact"):
        p2u.pull(folder / "package", folder / "out", until=state)
        files = ("config.json", "model.safetensors")
        digests[state] = {
            f: hashlib.sha256((folder / "out" / f).read_bytes()).hexdigest() for f in files
        }
    (folder / "sha256.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
