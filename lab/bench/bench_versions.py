"""Updates from one version to the next: sizes and one-core speeds compared with the rivals.

    python lab/bench/bench_versions.py                    # all pairs, the table of docs/versions.md
    python lab/bench/bench_versions.py step1 --runs 1     # one pair
    python lab/bench/bench_versions.py --csv docs/data/versions.csv

Pairs are those of `finetune.py` and `releases.py`, made or fetched when they are missing. An
update's size is what somebody who has the parent must fetch. GB/s are 1e9 bytes of the new
version's file per second of processor time, the best of the runs, on one core; what a rival offers
on the command line only is timed with its process. Every update is applied and compared with the
version, bit for bit.

P2U's own rows: ``version`` is an update that `p2u.pack` makes with a parent, index included, as
``new alone`` is its base and refinements without one. ``small`` pairs are a few tensors of a pair,
because bsdiff needs too long for all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import finetune
import numpy as np
from decoding import decoder, read_manifest
from measure import cores, ram_folder, raw_bytes, warm_memory
from models import cache_dir, read_safetensors
from releases import RELEASES, release_pair

from p2u import pack
from p2u.formats import scan_model
from p2u.types import ITEMSIZE, PROGRESSIVE, TensorSpan

os.environ.setdefault("BIGSMALL_DISABLE_VERSION_CHECK", "1")

#: Bytes of the small pairs.
SMALL = 3_000_000
#: A method is not run again once its runs of one pair took this many seconds together.
BUDGET = 10.0
FIELDS = ("pair", "changed", "method", "version", "bytes", "fraction", "encode", "apply")


class Method(ABC):
    """A way to send a version to whoever has its parent."""

    name = ""
    version = ""
    #: Largest file that it is run on, bytes.
    most = 1 << 40

    def takes(self, old: Path, new: Path) -> bool:
        """Whether it can be run on a pair."""
        return new.stat().st_size <= self.most

    @abstractmethod
    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        """Make the update."""

    def size(self, made: Any) -> int:
        """Its bytes."""
        return int(made.stat().st_size)

    @abstractmethod
    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any] | None:
        """What applies it, if that is measured; reading files that P2U has in memory is not."""

    def same(self, result: Any, new: Path) -> bool:
        """Whether what the decoder gives is the version."""
        return bytes(result) == new.read_bytes()


class Xor(Method):
    """XOR, bytes split by place, zstd -9: what most patch formats of trainers come to."""

    name = "XOR + byte split + zstd-9"
    version = version("zstandard")

    def takes(self, old: Path, new: Path) -> bool:
        return old.stat().st_size == new.stat().st_size

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        zstandard = importlib.import_module("zstandard")
        a, b = (np.fromfile(path, np.uint8) for path in (old, new))
        planes = np.bitwise_xor(a, b)
        width = item(new)
        even = len(planes) // width * width
        split = planes[:even].reshape(-1, width).T.tobytes() + planes[even:].tobytes()
        return zstandard.ZstdCompressor(level=9).compress(split)

    def size(self, made: Any) -> int:
        return len(made)

    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any]:
        zstandard = importlib.import_module("zstandard")
        parent = np.fromfile(old, np.uint8)
        width = item(old)

        def run() -> np.ndarray:
            split = np.frombuffer(zstandard.ZstdDecompressor().decompress(made), np.uint8)
            even = len(split) // width * width
            out = np.empty_like(parent)
            out[:even] = split[:even].reshape(width, -1).T.reshape(-1)
            out[even:] = split[even:]
            return np.bitwise_xor(out, parent, out=out)

        return run


class BigSmall(Method):
    """``bigsmall compress --base``; gives back tensors, not the file."""

    name = "bigsmall --base"

    def __init__(self) -> None:
        self.version = version("bigsmall")

    def takes(self, old: Path, new: Path) -> bool:
        return new.suffix == ".safetensors"

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        out = folder / "delta.bs"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("bigsmall").compress_delta(
                new, old, out, workers=1, progress=False, force_delta=True
            )
        return out

    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any]:
        decompress = importlib.import_module("bigsmall").decompress_delta
        return lambda: decompress(made, old, progress=False)

    def same(self, result: Any, new: Path) -> bool:
        originals, _ = read_safetensors(new)
        return result.keys() == originals.keys() and all(
            raw_bytes(result[name]) == original.tobytes() for name, original in originals.items()
        )


class Lmz(Method):
    """lmz, both versions in one archive: what the second one adds to it."""

    name = "lmz, both in one archive"

    def __init__(self) -> None:
        self.version = version("lmzip")

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        compress = importlib.import_module("lmz").compress
        both = folder / "both"
        both.mkdir()
        shutil.copy(old, both / f"v1{old.suffix}")
        one = folder / "one.lmz"
        compress(str(both), str(one), workers=1)
        shutil.copy(new, both / f"v2{new.suffix}")
        out = folder / "both.lmz"
        begin = seconds()
        compress(str(both), str(out), workers=1)
        return out, one, seconds() - begin

    def size(self, made: Any) -> int:
        return int(made[0].stat().st_size - made[1].stat().st_size)

    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any]:
        decompress = importlib.import_module("lmz").decompress

        def run() -> Path:
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            decompress(str(made[0]), str(out), workers=1, overwrite=True)
            return next(out.rglob(f"v2{old.suffix}"))

        return run

    def same(self, result: Any, new: Path) -> bool:
        return bool(result.read_bytes() == new.read_bytes())


class ZstdPatch(Method):
    """``zstd --patch-from``."""

    def __init__(self, level: int) -> None:
        self._level = level
        self.name = f"zstd -{level} --patch-from"
        told = subprocess.run(["zstd", "--version"], capture_output=True, text=True, check=True)
        self.version = told.stdout.partition(" v")[2].partition(",")[0]

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        out = folder / f"patch{self._level}.zst"
        command = ["zstd", f"-{self._level}", "--long=30", f"--patch-from={old}", str(new)]
        subprocess.run([*command, "-o", str(out), "-f", "-q"], check=True)
        return out

    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any]:
        out = folder / "patched"
        command = ["zstd", "-d", "--long=30", f"--patch-from={old}", str(made)]

        def run() -> Path:
            subprocess.run([*command, "-o", str(out), "-f", "-q"], check=True)
            return out

        return run

    def same(self, result: Any, new: Path) -> bool:
        return bool(result.read_bytes() == new.read_bytes())


class Bsdiff(Method):
    """bsdiff, on small files only: it sorts all suffixes."""

    name = "bsdiff"
    most = 2 * SMALL

    def __init__(self) -> None:
        self.version = version("bsdiff4")

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        diff = importlib.import_module("bsdiff4").diff
        return diff(old.read_bytes(), new.read_bytes())

    def size(self, made: Any) -> int:
        return len(made)

    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any]:
        patch, parent = importlib.import_module("bsdiff4").patch, old.read_bytes()
        return lambda: patch(parent, made)


class Ours(Method):
    """P2U: a version's update, index and all."""

    name = "P2U version"

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        package = folder / "p"
        shutil.rmtree(package, ignore_errors=True)
        marks: dict[str, float] = {}

        def progress(p: Any) -> None:
            marks.setdefault(p.phase, seconds())

        pack(new, package, parent=old, jobs=1, progress=progress)
        # Verifying what was written is no part of encoding: no rival does it.
        return package, marks["verify"] - marks["encode"]

    def size(self, made: Any) -> int:
        manifest = read_manifest(made[0])
        (update,) = manifest.updates
        return manifest.cost(update)

    def decoder(self, made: Any, old: Path, folder: Path) -> Callable[[], Any]:
        return decoder(made[0], old)


class Alone(Method):
    """P2U without the parent: base and refinement to exact."""

    name = "P2U, new alone"

    def encode(self, old: Path, new: Path, folder: Path) -> Any:
        package = folder / "alone"
        shutil.rmtree(package, ignore_errors=True)
        return pack(new, package, levels=("base", "exact"), jobs=1)

    def size(self, made: Any) -> int:
        return int(made.states[-1].bytes)

    def decoder(self, made: Any, old: Path, folder: Path) -> None:
        return None  # another thing than a change: bench_codec.py has it


@dataclass
class Row:
    """What one method did with one pair; rates in GB/s, 0 where it was not measured."""

    pair: str
    changed: float
    method: str
    version: str
    bytes: int
    fraction: float
    encode: float
    apply: float


def seconds() -> float:
    """Processor time so far, of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def floats(path: Path) -> dict[str, TensorSpan]:
    """The tensors of floats in a file."""
    (file,) = scan_model(str(path)).files
    return {span.name: span for span in file.spans if span.dtype in PROGRESSIVE}


def item(path: Path) -> int:
    """Bytes of the floats that are most in a file."""
    sizes: Counter[int] = Counter()
    for span in floats(path).values():
        sizes[ITEMSIZE[span.dtype]] += span.length
    return sizes.most_common(1)[0][0]


def changed(old: Path, new: Path) -> float:
    """Part of the weights that differ, of those in tensors of the same name and size."""
    a, b = floats(old), floats(new)
    first, second = old.read_bytes(), new.read_bytes()
    differ = total = 0
    for name, span in a.items():
        if name in b and (b[name].dtype, b[name].length) == (span.dtype, span.length):
            kind = f"<u{ITEMSIZE[span.dtype]}"
            x, y = (
                np.frombuffer(data[s.offset : s.offset + s.length], kind)
                for data, s in ((first, span), (second, b[name]))
            )
            differ += int(np.count_nonzero(x != y))
            total += x.size
    return differ / max(1, total)


def run(method: Method, old: Path, new: Path, pair: str, part: float, runs: int) -> Row:
    """Measure one method on one pair."""
    size = new.stat().st_size
    encode: list[float] = []
    apply: list[float] = []
    made: Any = None
    for _ in range(runs):
        if sum(encode) + sum(apply) > BUDGET:
            break
        with tempfile.TemporaryDirectory(dir=ram_folder()) as name:
            folder = Path(name)
            begin = seconds()
            made = method.encode(old, new, folder)
            took = seconds() - begin
            encode.append(made[-1] if isinstance(made, tuple) else took)
            count = method.size(made)
            decode = method.decoder(made, old, folder)
            if decode is not None:
                begin = seconds()
                result = decode()
                apply.append(seconds() - begin)
                assert method.same(result, new), f"{method.name}: another file"
    rates = [size / min(times) / 1e9 if times else 0.0 for times in (encode, apply)]
    return Row(pair, part, method.name, method.version, count, count / size, *rates)


def small(path: Path, folder: Path) -> Path:
    """A file with the first tensors of another, to some bytes."""
    save, load = (
        getattr(importlib.import_module("safetensors.torch"), n) for n in ("save_file", "load_file")
    )
    kept, size = {}, 0
    for name, tensor in sorted(load(path).items()):
        if "layer" in name and size + tensor.nbytes <= SMALL:
            kept[name] = tensor
            size += tensor.nbytes
    out = folder / f"small-{path.name}"
    save(kept, out)
    return out


def table(rows: list[Row]) -> str:
    """Text with one line per method."""
    lines = [f"{rows[0].pair}: {100 * rows[0].changed:.1f} % of the weights changed"]
    best = min((r for r in rows if not r.method.startswith("P2U")), key=lambda r: r.bytes)
    for r in rows:
        apply = f"{r.apply:7.3f}" if r.apply else "      -"
        lines.append(
            f"  {r.method:28} {r.bytes:11,} {r.fraction:8.5f} {r.bytes / best.bytes:6.2f} x best "
            f"rival   encode {r.encode:7.3f}  apply {apply} GB/s"
        )
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", nargs="*", default=[*finetune.NAMES[1:], *RELEASES])
    parser.add_argument("--folder", type=Path, help="of the fine-tuned pairs; made if missing")
    parser.add_argument("--runs", type=int, default=5, help="rounds; the best counts (5)")
    parser.add_argument("--csv", type=Path, help="also write all results to this file")
    args = parser.parse_args()
    warm_memory()
    folder = args.folder or cache_dir() / "minilm-finetuned"
    if not RELEASES.keys() >= set(args.pairs):
        finetune.make(folder)
    methods: list[Method] = [
        Ours(), Alone(), Xor(), BigSmall(), Lmz(), ZstdPatch(3), ZstdPatch(19), Bsdiff(),
    ]  # fmt: skip
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=ram_folder()) as name, cores(1):
        for pair in args.pairs:
            if pair in RELEASES:
                pairs = {pair: release_pair(pair, cache_dir() / "releases")}
            else:
                whole = folder / "step0.safetensors", folder / f"{pair}.safetensors"
                cut = [small(path, Path(name)) for path in whole]
                pairs = {pair: whole, f"small {pair}": (cut[0], cut[1])}
            for title, (old, new) in pairs.items():
                share = changed(old, new)
                here = [
                    run(m, old, new, title, share, args.runs) for m in methods if m.takes(old, new)
                ]
                print(table(here), flush=True)
                rows += here
    if args.csv:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(args.csv, "w", newline="") as stream:
            out = csv.writer(stream, lineterminator="\n")
            out.writerow(FIELDS)
            for r in rows:
                rates = [f"{rate:.3g}" if rate else "" for rate in (r.encode, r.apply)]
                about = (r.pair, f"{r.changed:.4f}", r.method, r.version, r.bytes)
                out.writerow([*about, f"{r.fraction:.5f}", *rates])
    return 0


if __name__ == "__main__":
    sys.exit(main())
