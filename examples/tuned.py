"""A model whose weights differ a little from another one's: it stands for a next checkpoint.

``python examples/tuned.py MODEL NEW``: copies the directory MODEL to NEW, and moves one in ten of
the floats in its safetensors files by about a thousandth.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def tune(file: Path) -> None:
    """Move the floats of a file."""
    rng = np.random.default_rng(1)
    tensors = {}
    with safe_open(file, "np") as held:
        metadata = held.metadata()
        for name in held.keys():  # noqa: SIM118 - it is no mapping
            values = held.get_tensor(name)
            if values.dtype.kind == "f":
                moved = rng.random(values.shape) < 0.1
                change = 1 + 1e-3 * moved * rng.standard_normal(values.shape)
                values = (values * change).astype(values.dtype)
            tensors[name] = values
    save_file(tensors, file, metadata)


def main() -> None:
    """Command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/tuned.py MODEL NEW")
    source, target = map(Path, sys.argv[1:])
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".cache"))
    for file in sorted(target.glob("*.safetensors")):
        tune(file)
    print(f"{target} is {source} with other weights")


if __name__ == "__main__":
    main()
