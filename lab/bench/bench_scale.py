"""Packing with the engine ray: rate and memory of workers, and what follows for large models.

    python lab/bench/bench_scale.py --gib 1 --workers 1 2
    python lab/bench/bench_scale.py --gib 4.2 --workers 2 --limit 512
    python lab/bench/bench_scale.py --estimate 85

The first measures; ``local:N`` in place of a number is the local engine with N threads. ``--limit``
is each worker's RLIMIT_DATA in MiB. ``--estimate`` prints the table of docs/scale.md for a rate in
MB/s and worker. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import p2u

COLS, ROWS = 4096, 8192
#: Parts of a bf16 model that a client fetches for base, 8bit and exact, with the default recipe.
PARTS = {"base": 0.22, "8bit": 0.47, "exact": 0.656}
#: Bytes of a client's request, and of a blob.
REQUEST, BLOB = 4 << 20, 24 << 20
#: Assumed prices in dollars: a processor for an hour, a million puts and gets, a GB from a CDN, ten
#: thousand of its requests.
CORE_HOUR, PUTS, GETS, CDN_GB, CDN_REQUESTS = 0.04, 5.0, 0.4, 0.02, 0.0075
CLIENTS = 10_000


def make_model(folder: Path, gib: float, shards: int) -> None:
    """A model of bf16 matrices, with a norm after each."""
    rng = np.random.default_rng(1)
    layer = 0
    for shard in range(shards):
        header: dict[str, object] = {}
        at, left = 0, int(gib * (1 << 30)) // shards // (2 * COLS)
        shapes: list[tuple[int, int]] = []
        while left > 0:
            rows = min(ROWS, left)
            left -= rows
            for name, count in (("w", rows), ("norm", 1)):
                end = at + 2 * count * COLS
                header[f"layers.{layer}.{name}"] = {
                    "dtype": "BF16",
                    "shape": [count, COLS] if name == "w" else [COLS],
                    "data_offsets": [at, end],
                }
                at = end
                shapes.append((count, COLS))
            layer += 1
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / f"model-{shard + 1:05d}-of-{shards:05d}.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for rows, cols in shapes:
                for first in range(0, rows, 512):
                    count = min(512, rows - first)
                    scale = 0.02 * np.exp(0.3 * rng.standard_normal((count, 1), np.float32))
                    values = rng.standard_normal((count, cols), np.float32) * scale
                    file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def below(parent: int) -> Iterator[tuple[int, bytes]]:
    """The processes that descend from one, and their names."""
    parents: dict[int, int] = {}
    names: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            stat = (folder / "stat").read_text().rpartition(")")[2]
            parents[int(folder.name)] = int(stat.split()[1])
        except OSError:  # it has ended
            continue
    for pid, name in names.items():
        above = pid
        while above not in (0, 1, parent):
            above = parents.get(above, 0)
        if above == parent:
            yield pid, name


class Memory:
    """The peaks of the workers below this process, sampled; a context manager.

    Attributes:
        anonymous: Of each worker, bytes that are its own.
        resident: Of each worker, bytes with those of the shared object store that it has touched.
    """

    def __init__(self, limit: int) -> None:
        self.anonymous: dict[int, int] = {}
        self.resident: dict[int, int] = {}
        self._limit = limit
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.2):
            for pid, name in below(os.getpid()):
                if name.startswith((b"ray::IDLE", b"ray::run_unit", b"ray::write_blob")):
                    self._look(pid)

    def _look(self, pid: int) -> None:
        try:
            if self._limit and pid not in self.resident:
                resource.prlimit(pid, resource.RLIMIT_DATA, (self._limit, self._limit))
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            return
        found = dict(line.split(":", 1) for line in lines if ":" in line)

        def size(name: str) -> int:
            return int(found.get(name, "0").split()[0]) << 10

        self.anonymous[pid] = max(self.anonymous.get(pid, 0), size("RssAnon"))
        self.resident[pid] = max(self.resident.get(pid, 0), size("VmHWM"))


def measure(model: Path, package: Path, how: str, limit: int) -> None:
    """Pack, and print what it took without the start of Ray."""
    threads = how.partition(":")[2]
    options: dict[str, Any] = (
        {"jobs": int(threads)} if threads else {"engine": "ray", "workers": int(how)}
    )
    if not threads:
        import ray

        ray.init(num_cpus=int(how), include_dashboard=False, log_to_driver=False)
    called = time.perf_counter()
    with Memory(limit) as memory:
        p2u.pack(model, package, name="model", **options)
        seconds = time.perf_counter() - called
    if not threads:
        ray.shutdown()
    size = sum(file.stat().st_size for file in model.iterdir())
    print(f"{how}: {seconds:.1f} s, {size / seconds / 1e6:.1f} MB/s")
    for pid, own in memory.anonymous.items():
        print(f"  worker: {own >> 20} MiB of its own, {memory.resident[pid] >> 20} MiB resident")


def digest(package: Path) -> str:
    """Of all files of a package, with their names."""
    found = hashlib.sha256()
    for path in sorted(package.iterdir()):
        found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def compare(args: argparse.Namespace) -> None:
    """Pack the same model in all ways that are asked for."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        model = Path(folder, "model")
        model.mkdir()
        make_model(model, args.gib, args.shards)
        digests = set()
        for how in args.workers:
            package = Path(folder, how.replace(":", "-"))
            print(f"load {os.getloadavg()[0]:.1f}")
            measure(model, package, how, args.limit << 20)
            digests.add(digest(package))
        print("the packages are the same" if len(digests) == 1 else "THE PACKAGES DIFFER")


def estimate(rate: float) -> None:
    """Print what models of some sizes take, at a rate in MB/s and worker."""
    sizes: dict[str, float] = {"8 B": 16e9, "70 B": 140e9, "1 T": 2e12}
    rows: list[tuple[str, Callable[[float], str]]] = [
        ("bytes of the model (bf16)", lambda n: f"{n / 1e9:,.0f} GB"),
        ("worker-hours", lambda n: f"{n / rate / 3.6e9:,.2f}"),
        ("minutes with 16 workers", lambda n: f"{n / rate / 16 / 6e7:,.1f}"),
        ("minutes with 48 workers", lambda n: f"{n / rate / 48 / 6e7:,.1f}"),
        ("dollars for processors", lambda n: f"{n / rate / 3.6e9 * CORE_HOUR:,.2f}"),
        ("chunks", lambda n: f"{n / (2 << 20):,.0f}"),
        ("memory of the driver", lambda n: f"{0.15 + n / (2 << 20) * 1260 / 1e9:,.2f} GB"),
        ("bytes of the package", lambda n: f"{n * PARTS['exact'] / 1e9:,.0f} GB"),
        ("blobs", lambda n: f"{n * PARTS['exact'] / BLOB:,.0f}"),
        ("dollars for puts and gets", lambda n: f"{_requests(n):,.2f}"),
        *(
            (f"a client: bytes to {label}", lambda n, part=part: f"{n * part / 1e9:,.1f} GB")
            for label, part in PARTS.items()
        ),
        ("a client: requests", lambda n: f"{n * PARTS['exact'] / REQUEST:,.0f}"),
        ("all: bytes to exact", lambda n: f"{CLIENTS * n * PARTS['exact'] / 1e15:,.2f} PB"),
        ("all: bytes of the plain files", lambda n: f"{CLIENTS * n / 1e15:,.2f} PB"),
        ("all: requests", lambda n: f"{CLIENTS * n * PARTS['exact'] / REQUEST / 1e6:,.0f} M"),
        ("all: dollars, exact", lambda n: f"{_delivery(n * PARTS['exact']):,.0f}"),
        ("all: dollars, base only", lambda n: f"{_delivery(n * PARTS['base']):,.0f}"),
        ("all: dollars, plain files", lambda n: f"{_delivery(n):,.0f}"),
    ]
    print("| | " + " | ".join(sizes) + " |\n|---" + "|---" * len(sizes) + "|")
    for name, value in rows:
        print(f"| {name} | " + " | ".join(value(size) for size in sizes.values()) + " |")


def _requests(size: float) -> float:
    """Dollars: one put for each blob, a get for each chunk, read twice, and for its payloads."""
    gets = 2 * size / (2 << 20) + size * PARTS["exact"] / REQUEST
    return (size * PARTS["exact"] / BLOB * PUTS + gets * GETS) / 1e6


def _delivery(size: float) -> float:
    """Dollars for all clients that fetch so many bytes."""
    return CLIENTS * (size / 1e9 * CDN_GB + size / REQUEST / 1e4 * CDN_REQUESTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--workers", nargs="+", default=["local:1", "1", "2"])
    parser.add_argument("--limit", type=int, default=0, metavar="MIB")
    parser.add_argument("--folder", help="where the model is made")
    parser.add_argument("--estimate", type=float, metavar="RATE")
    given = parser.parse_args()
    if given.estimate:
        estimate(given.estimate)
    else:
        compare(given)
