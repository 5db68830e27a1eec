"""How the golden package of versions was made. It is frozen: this never overwrites it.

    python tests/golden/make_v2_package.py FOLDER

Four versions of a part of the golden model, as the packer of the day published them: sparse changes
of floats, integers and bytes; other names, shapes, dtypes and files; an update across two versions;
a version with a base of its own. And the SHA-256 of the files of each state.
"""

from __future__ import annotations

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

Tensors = dict[str, np.ndarray]
SOURCE = Path(__file__).parent / "v1" / "model" / "model.safetensors"
KEPT = ("embed.weight", "layer.0.weight", "layer.1.weight", "position_ids", "bytes", "scalar",
        "empty")  # fmt: skip


def moved(rng: np.random.Generator, w: np.ndarray, part: float) -> np.ndarray:
    """Weights of which a part moved by a few units in the last place."""
    bits = w.view(f"u{w.dtype.itemsize}")
    step = np.where(rng.random(w.shape) < part, rng.integers(-3, 4, w.shape), 0)
    return (bits + step.astype(bits.dtype)).view(w.dtype)


def versions() -> list[tuple[Tensors, str]]:
    """Tensors and configuration of each version."""
    rng = np.random.default_rng(5)
    with safe_open(SOURCE, "numpy") as file:
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


def main() -> None:
    """Write the package and the digests to a new folder."""
    folder = Path(sys.argv[1])
    package = folder / "package"
    if package.exists():
        raise SystemExit(f"{package} exists: golden files are never made again")
    with tempfile.TemporaryDirectory() as tmp:
        for number, (tensors, config) in enumerate(versions(), 1):
            model = Path(tmp, str(number))
            model.mkdir()
            save_file(
                tensors, model / ("model.safetensors" if number < 3 else "weights.safetensors")
            )
            (model / "config.json").write_text(config)
            p2u.publish(model, package, name="golden", anchor=number == 4, fold=1.0)
        digests = {}
        for state in json.loads((package / "p2u.json").read_text())["releases"]:
            for label in state["states"]:
                id_ = f"{state['version']}@{label['label']}"
                p2u.pull(package, Path(tmp, id_), until=id_)
                digests[id_] = {
                    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                    for path in sorted(Path(tmp, id_).iterdir())
                    if not path.name.startswith(".p2u")
                }
    (folder / "sha256.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
