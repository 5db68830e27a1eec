"""One-shot lossless compressors for model weights: the rivals, at their best settings.

    python lab/bench/rivals.py minilm-bf16 minilm-fp32       # sizes and one-core speeds
    python lab/bench/rivals.py --runs 1 --fast whisper-bf16  # quick: sizes, no zstd -19

Each rival runs in its defaults and in every setting that its documentation offers and that helped
on some model; column by column, the best number of any of its settings counts. Other scripts put
their own :class:`p2u_lab.methods.codecs.Rival` into the same run: ``measure([*rivals(), mine])``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import BUDGET, Result, best, measure, same_tensors, table, warm_memory
from models import WEIGHTS, cache_dir

from p2u_lab.methods.codecs import Rival, ZipNN, Zstd, lmz_settings, zipnn_settings

# BigSmall asks the network for newer versions on import.
os.environ.setdefault("BIGSMALL_DISABLE_VERSION_CHECK", "1")


class ZipNNTensors(ZipNN):
    """ZipNN tensor by tensor, as its safetensors plug-in does (and recommends)."""

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        originals = importlib.import_module("safetensors.torch").load_file(weights)
        tensors = {name: tensor.clone() for name, tensor in originals.items()}
        codec = self.codec(threads, input_format="torch", method="HUFFMAN")

        def run() -> dict[str, tuple[Any, Any]]:
            out: dict[str, tuple[Any, Any]] = {}
            for name, tensor in tensors.items():
                size = tensor.numel() * tensor.element_size()
                coded = codec.compress(tensor) if tensor.is_floating_point() and size else None
                # None: stored as it is. The original tells its dtype and shape later.
                out[name] = (coded if coded and len(coded) < size else None, originals[name])
            return out

        return run

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        codec = self.codec(threads, input_format="torch", method="HUFFMAN")
        return lambda: {
            name: original if coded is None else codec.decompress(coded)
            for name, (coded, original) in packed.items()
        }

    def size(self, packed: Any) -> int:
        """The size of the safetensors file that the plug-in reads, metadata included."""
        torch = importlib.import_module("torch")
        about = importlib.import_module("zipnn.util_safetensors")
        tensors, info = {}, {}
        for name, (coded, original) in packed.items():
            tensors[name] = original
            if coded is not None:
                tensors[name] = torch.frombuffer(bytearray(coded), dtype=torch.uint8)
                info[name] = about.build_compressed_tensor_info(original)
        save = importlib.import_module("safetensors.torch").save
        return len(save(tensors, {about.METADATA_KEY: json.dumps(info)}))

    def same(self, unpacked: Any, weights: Path) -> bool:
        return same_tensors(unpacked, weights)


class BigSmall(Rival):
    """BigSmall's ``.bs`` files; gives back tensors, not the file."""

    name = "bigsmall"

    @property
    def version(self) -> str:
        return version("bigsmall")

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        compress = importlib.import_module("bigsmall").compress
        out = folder / "model.bs"

        def run() -> Path:
            with contextlib.redirect_stdout(io.StringIO()):
                compress(weights, out, workers=threads, progress=False, **self.options)
            return out

        return run

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        decompress = importlib.import_module("bigsmall").decompress
        return lambda: decompress(packed, progress=False)

    def size(self, packed: Any) -> int:
        return int(packed.stat().st_size)

    def same(self, unpacked: Any, weights: Path) -> bool:
        return same_tensors(unpacked, weights)


class BigSmallSpeed(BigSmall):
    """BigSmall's faster coder, which it has for bfloat16 only."""

    dtypes = ("bf16",)


class Duo(BigSmall):
    """BigSmall's "Ferrell Duo": an INT4 model and what makes it exact, in one ``.bsd`` file.

    The one rival with two states. Only bfloat16 tensors get the INT4 part; in models of other
    dtypes all is stored once, exactly.
    """

    name = "bigsmall duo"
    dtypes = ("bf16",)

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        create = importlib.import_module("bigsmall.dual").create_dual
        out = folder / "model.bsd"

        def run() -> Path:
            create(weights, out, workers=threads, progress=False, **self.options)
            return out

        return run

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        load = importlib.import_module("bigsmall.dual").load_dual
        return lambda: load(packed, mode="perfect")

    def base_size(self, packed: Any) -> int:
        """Bytes to read for the INT4 model, the file's header included."""
        info = importlib.import_module("bigsmall.dual").dual_info(packed)
        return int(info["data_offset"]) + int(info["modes"]["fast"]["bytes"])


def rivals(*, fast: bool = False) -> list[Rival]:
    """All rivals in all settings that are worth measuring, defaults first."""
    every: list[Rival] = [
        *zipnn_settings(),
        ZipNNTensors("per tensor"),
        ZipNNTensors("per tensor, 128 KiB chunks", compression_chunk=128 << 10),
        *lmz_settings(),
        BigSmall(),
        BigSmall("group streams", group_streams=True, mode="storage"),
        BigSmallSpeed("prefer speed", prefer_speed=True),
        Duo("group 128"),
        Duo("group 256", group=256),
        Zstd(3),
        Zstd(19),
    ]
    return [rival for rival in every if not (fast and rival.slow)]


def main() -> int:
    """Command line: measure the rivals on models of the cache folder, by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="directories in the cache, like minilm-bf16")
    parser.add_argument("--runs", type=int, default=5, help="rounds; the best counts (5)")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores (1)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds per step (30)")
    parser.add_argument("--fast", action="store_true", help="leave out what is very slow")
    parser.add_argument("--only", nargs="+", default=[""], help="only rivals that begin so")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    parser.add_argument("--cold", action="store_true", help="memory as the C library likes it")
    args = parser.parse_args()
    if not args.cold:
        warm_memory()
    entrants = [r for r in rivals(fast=args.fast) if r.name.startswith(tuple(args.only))]
    everything: list[Result] = []
    for name in args.models:
        weights = cache_dir() / name / WEIGHTS
        if not weights.is_file():
            print(f"no {weights}; fetch it with lab/bench/models.py", file=sys.stderr)
            return 1
        print(f"\n{name}, {weights.stat().st_size:,} bytes, {args.threads} thread(s)", flush=True)
        results = measure(
            weights, entrants, runs=args.runs, threads=args.threads, budget=args.budget
        )
        print(table(results), flush=True)
        for rival, (ratio, pack, unpack) in best(results).items():
            print(f"best of {rival}: {ratio:.5f}, pack {pack:.3f}, unpack {unpack:.3f} GB/s")
        everything += results
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in everything], indent=1) + "\n")
    return int(any(r.error for r in everything))


if __name__ == "__main__":
    sys.exit(main())
