"""P2U compared with the rivals: sizes, and pack and decode speed on one thread, in the same run.

    python lab/bench/bench_codec.py                      # MiniLM, all dtypes
    python lab/bench/bench_codec.py --all                # every real model: the README's table
    python lab/bench/bench_codec.py mpnet-bf16 mpnet-fp32

P2U's bytes are those of the whole package directory; its decoder's time is from nothing to the
exact file in memory, update by update (`decoding.py`), chunk hashes not checked (nor do the rivals
check any, but for lmz's checksums).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from decoding import decoder
from measure import Result, best, measure, table, warm_memory
from models import WEIGHTS, cache_dir
from rivals import rivals

import p2u
from p2u.package.manifest_parse import parse_manifest
from p2u_lab.methods.codecs import Rival

MINILM = ("minilm-bf16", "minilm-fp16", "minilm-fp32")
ALL = tuple(
    f"{name}-{dtype}"
    for name in ("minilm", "mpnet", "whisper", "effnet-lite0", "resnet56", "resnet20")
    for dtype in ("bf16", "fp16", "fp32")
)


class P2U(Rival):
    """A package of one safetensors file, with the given states."""

    name = "p2u"

    @property
    def version(self) -> str:
        return version("p2u-models")

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        out = folder / "package"

        def run() -> Path:
            shutil.rmtree(out, ignore_errors=True)
            p2u.pack(weights, out, levels=self.options["levels"], jobs=threads)
            return out

        return run

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        return decoder(packed, threads=threads)

    def size(self, packed: Any) -> int:
        return sum(f.stat().st_size for f in packed.iterdir())

    def base_size(self, packed: Any) -> int:
        """Bytes of the manifest, the layout, and the base with its index."""
        data = (packed / "p2u.json").read_bytes()
        return (parse_manifest(data).states[0].bytes or 0) + len(data)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", help="directories in the cache, like minilm-bf16")
    parser.add_argument("--all", action="store_true", help="every real model, every dtype")
    parser.add_argument("--runs", type=int, default=3, help="rounds; the best counts (3)")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores (1)")
    parser.add_argument("--only", help="only these rivals: zipnn,lmz")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    args = parser.parse_args()
    warm_memory()
    mine = [P2U("base,exact", levels=("base", "exact"))]
    mine.append(P2U("base,8bit,exact", levels=("base", "8bit", "exact")))
    others = [r for r in rivals(fast=True) if not args.only or r.name in args.only.split(",")]
    everything: list[Result] = []
    for name in args.models or (ALL if args.all else MINILM):
        weights = cache_dir() / name / WEIGHTS
        if not weights.is_file():
            print(f"no {weights}; fetch it with lab/bench/models.py", file=sys.stderr)
            return 1
        print(f"\n{name}, {weights.stat().st_size:,} bytes, {args.threads} thread(s)", flush=True)
        results = measure(weights, [*others, *mine], runs=args.runs, threads=args.threads)
        print(table(results), flush=True)
        figures = best(results)
        ours = figures.pop("p2u")
        ratios = np.array([v[0] for v in figures.values()])
        print(f"p2u {ours[0]:.5f}, best rival {ratios.min():.5f}", end="; ")
        for rival, (_, pack, unpack) in figures.items():
            print(
                f"{rival}: pack {ours[1] / pack:.2f} x, decode {ours[2] / unpack:.2f} x", end="; "
            )
        print()
        everything += results
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in everything], indent=1) + "\n")
    return int(any(r.error for r in everything))


if __name__ == "__main__":
    sys.exit(main())
