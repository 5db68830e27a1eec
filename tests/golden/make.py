"""Make the golden files: packages and chunks that readers must decode to the same bytes forever.

    python tests/golden/make.py FOLDER

FOLDER must not exist. Once a version of the format is released, its golden files are frozen and
never made again; until then they are made anew with each change of the format:
``rm -r tests/golden/v1 && python tests/golden/make.py tests/golden/v1``.

- ``model``: a small model with every dtype and odd value, and ``package``, its package;
- ``versions``: a package of four versions of a part of it: sparse changes of floats, integers and
  bytes; other names, shapes, dtypes and files; an update across two versions; a version with a
  base of its own;
- ``sha256.json``: digests of the files of each state of both packages;
- ``levels.json``: float chunks with base codes that are not the nearest, at every kind of level;
- ``changes.json``: chunks of the kinds 4 to 7, and the bytes that they begin at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

import p2u
from p2u.codec import core
from p2u.types import BLOCKS

DTYPES = {"F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
Tensors = dict[str, np.ndarray]
#: Tensors of the model that the versions have.
KEPT = ("embed.weight", "layer.0.weight", "layer.1.weight", "position_ids", "bytes", "scalar",
        "empty")  # fmt: skip


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


def write_model(folder: Path) -> None:
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


def moved(rng: np.random.Generator, w: np.ndarray, part: float) -> np.ndarray:
    """Weights of which a part moved by a few units in the last place."""
    bits = w.view(f"u{w.dtype.itemsize}")
    step = np.where(rng.random(w.shape) < part, rng.integers(-3, 4, w.shape), 0)
    return (bits + step.astype(bits.dtype)).view(w.dtype)


def versions(model: Path) -> list[tuple[Tensors, str]]:
    """Tensors and configuration of each version."""
    rng = np.random.default_rng(5)
    with safe_open(model / "model.safetensors", "numpy") as file:
        first = {name: file.get_tensor(name) for name in KEPT}
    second = dict(first)
    second["embed.weight"] = moved(rng, first["embed.weight"], 0.02)
    second["layer.0.weight"] = moved(rng, first["layer.0.weight"], 0.5)
    second["position_ids"] = first["position_ids"] + (np.arange(77) == 70)
    second["bytes"] = first["bytes"] ^ (np.arange(100) % 40 == 0)
    third = {f"model.{name}": t for name, t in second.items() if name != "bytes"}
    half = second["layer.1.weight"].astype("f4").astype(ml_dtypes.bfloat16)
    third["model.layer.1.weight"] = moved(rng, half, 0.1).reshape(96, 160)
    third["new"] = rng.normal(0, 0.05, (20, 20)).astype("f2")
    fourth = {**third, "new": moved(rng, third["new"], 0.1)}
    return [
        (tensors, json.dumps({"model_type": "golden", "version": n}))
        for n, tensors in enumerate((first, second, third, fourth))
    ]


def publish_versions(model: Path, package: Path, work: Path) -> None:
    """Publish each version, the last one with a base of its own."""
    for number, (tensors, config) in enumerate(versions(model), 1):
        folder = work / f"version{number}"
        folder.mkdir()
        name = "model.safetensors" if number < 3 else "weights.safetensors"
        save_file(tensors, folder / name)
        (folder / "config.json").write_text(config)
        p2u.publish(folder, package, name="golden", anchor=number == 4, fold=1.0)


def digests(package: Path, work: Path) -> dict[str, dict[str, str]]:
    """SHA-256 of the files of each state, by id."""
    found = {}
    for release in json.loads((package / "p2u.json").read_text())["releases"]:
        for state in release["states"]:
            id_ = f"{release['version']}@{state['label']}"
            out = work / package.name / id_
            p2u.pull(package, out, until=id_)
            found[id_] = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(out.iterdir())
                if not path.name.startswith(".p2u")
            }
    return found


def level_chunks() -> list[dict[str, object]]:
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
            found = []
            for payload in made.payloads:
                core.apply(
                    payload, dtype, kind.itemsize, [core.Segment(state, w.size, 9)], core.SCALAR
                )
                found.append(hashlib.sha256(state).hexdigest())
            assert state == w.tobytes()
            texts = [base64.b64encode(p).decode() for p in made.payloads]
            out.append({"dtype": dtype, "item": kind.itemsize, "elems": w.size, "cols": 9,
                        "payloads": texts, "sha256": found})  # fmt: skip
    return out


def floats(dtype: str, values: np.ndarray) -> bytes:
    """Floats of a dtype; of bfloat16 the upper halves of binary32."""
    single = np.ascontiguousarray(values, "<f2" if dtype == "F16" else "<f4")
    if dtype != "BF16":
        return single.tobytes()
    return single.view("<u2").reshape(-1, 2)[:, 1].tobytes()


def odd_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    """Weights with a few of everything."""
    w = rng.normal(0, 0.05, n)
    at = rng.choice(n, 7, replace=False)
    w[at] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.0, 1e-39]
    return w.astype("<f4")


def change(dtype: str, item: int, new: bytes, old: bytes, payload: bytes) -> dict[str, object]:
    """A chunk between versions, checked."""
    elems = len(new) // item
    for isa in (i for i in range(1, 5) if core.isa(i)):
        state = bytearray(len(new))
        segments = [core.Segment(state, elems, 9)]
        core.apply(payload, dtype, item, segments, isa, sources=[old])
        assert state == new
    return {
        "kind": payload[0], "dtype": dtype, "item": item, "elems": elems, "cols": 9,
        "source": base64.b64encode(old).decode(), "payload": base64.b64encode(payload).decode(),
        "sha256": hashlib.sha256(new).hexdigest(),
    }  # fmt: skip


def deltas(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 4: changes of all sizes, from every dtype to every other."""
    out = []
    for dtype in DTYPES:
        for source in DTYPES:
            w = odd_weights(rng, 700)
            old = floats(source, w)
            w[rng.choice(700, 300, replace=False)] *= np.float32(1.01)
            new = floats(dtype, w)
            segment = core.Segment(new, 700, 9)
            payload = core.encode_delta(dtype, [segment], [old], source)
            out.append(change(dtype, len(new) // 700, new, old, payload))
    return out


def gaps(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 7: few changes, small ones and some that travel whole."""
    out = []
    for dtype, kind in DTYPES.items():
        old = floats(dtype, odd_weights(rng, 3000))
        bits = np.frombuffer(old, f"u{kind.itemsize}").copy()
        at = rng.choice(3000, 60, replace=False)
        bits[at] += rng.integers(-9, 10, 60).astype(bits.dtype)
        bits[at[:1]] ^= 0x1234
        new = bits.tobytes()
        payload = core.encode_delta(dtype, [core.Segment(new, 3000, 9)], [old])
        assert payload[0] == 7
        out.append(change(dtype, kind.itemsize, new, old, payload))
    return out


def opaque(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 5: each way to code a plane."""
    out = []
    for stride, what in ((0, "same"), (0, "few"), (18, "nibbles"), (0, "noise")):
        old = np.clip(rng.normal(128, 9, 1800), 0, 255).astype(np.uint8)
        new = old.copy()
        if what == "few":
            new[rng.choice(1800, 90)] += 1
        elif what == "nibbles":
            new = (old & 0xF0) | (old + rng.integers(0, 2, 1800, np.uint8) & 0x0F)
        elif what == "noise":
            new = rng.integers(0, 256, 1800, np.uint8)
        segment = core.Segment(new.tobytes(), 900, 9)
        payload = core.encode_opaque_delta(2, [segment], [old.tobytes()], stride=stride)
        out.append(change("I16", 2, new.tobytes(), old.tobytes(), payload))
    return out


def adopted(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 6: every type of blocks, near their values and not."""
    out = []
    for i, (block, (elems, size)) in enumerate(BLOCKS.items()):
        dtype, n = list(DTYPES)[i % 3], -(-600 // elems)
        data = rng.integers(0, 256, (n, size), np.uint8)
        halves = {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208]}.get(block, [0, 2])
        for at in halves if block[0] == "Q" else []:
            d = rng.lognormal(-5, 1, n).astype("<f2")
            data[:, at : at + 2] = d.view(np.uint8).reshape(-1, 2)
        old = data.tobytes()
        w = np.frombuffer(core.dequantise(block, old), "<f4").copy()
        w += rng.normal(0, 0.3 * np.nanmedian(np.abs(w)), w.size).astype("<f4")
        w[::50] = odd_weights(rng, w.size)[::50]
        new = floats(dtype, w)
        segment = core.Segment(new, w.size, 9)
        payload = core.encode_adopt(dtype, [segment], [old], block)
        out.append(change(dtype, len(new) // w.size, new, old, payload))
    return out


def change_chunks() -> list[dict[str, object]]:
    """Chunks between versions, of every kind."""
    rng = np.random.default_rng(20261121)
    with np.errstate(all="ignore"):
        return deltas(rng) + opaque(rng) + adopted(rng) + gaps(rng)


def main() -> None:
    """Write the golden files to a new folder."""
    folder = Path(sys.argv[1])
    if folder.exists():
        raise SystemExit(f"{folder} exists: remove it first, unless its format is released")
    write_model(folder / "model")
    p2u.pack(folder / "model", folder / "package", blob_size=16 << 10, name="golden")
    with tempfile.TemporaryDirectory() as tmp:
        publish_versions(folder / "model", folder / "versions", Path(tmp))
        found = {name: digests(folder / name, Path(tmp)) for name in ("package", "versions")}
    for name, content in (
        ("sha256", found),
        ("levels", level_chunks()),
        ("changes", change_chunks()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
