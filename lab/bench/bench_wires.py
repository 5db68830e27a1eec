"""Seconds and bytes of a version, P2U beside the formats of others, in one run.

    python lab/bench/bench_wires.py                        # 269 MB, one core and two
    python lab/bench/bench_wires.py --size 1000 --runs 3   # 1 GB
    python lab/bench/bench_wires.py --csv docs/data/tables

A decoder in bfloat16 gets random weights; an optimizer step moves fp32 masters by one small
amount, up or down, as AdamW does, so that small weights change more often than large ones. The
amounts are such that about 0.4 and 4 % of the weights change.

- *publish*: from the trainer's tensors to bytes that can be fetched. All formats copy the tensors
  first, as their trainers do; P2U also writes the package (in memory), with its manifest.
- *apply*: from these bytes to the receiver's tensors, checked. P2U's receiver also keeps the state
  before, and changes nothing until all is checked; the others change tensors in place.
- *in use*: publish, the bytes at a line's rate, and apply, one after the other.

The best of the runs; formats take turns. Each number of cores has a process of its own, pinned.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from wires import Weights, Wire, digest, wires

import p2u

#: The rate of the steps, by the per cent of the weights that change.
STEPS = {0.4: 0.67e-7, 4.0: 0.94e-6}
#: Lines, in Mbit/s.
RATES = {"10 Mbit/s": 10, "100 Mbit/s": 100, "1 Gbit/s": 1000, "10 Gbit/s": 10_000}
WIDTH, HIDDEN, VOCABULARY = 576, 1536, 49152
#: Where packages are written: to memory, if there is such a place.
SHM = Path("/dev/shm")


def shapes(megabytes: int) -> dict[str, tuple[int, ...]]:
    """Those of a Llama of about this size in bfloat16."""
    found: dict[str, tuple[int, ...]] = {"embed_tokens": (VOCABULARY, WIDTH)}
    layer: dict[str, tuple[int, ...]] = {
        "q_proj": (WIDTH, WIDTH), "k_proj": (WIDTH // 3, WIDTH), "v_proj": (WIDTH // 3, WIDTH),
        "o_proj": (WIDTH, WIDTH), "gate_proj": (HIDDEN, WIDTH), "up_proj": (HIDDEN, WIDTH),
        "down_proj": (WIDTH, HIDDEN), "input_layernorm": (WIDTH,), "post_layernorm": (WIDTH,),
    }  # fmt: skip
    number = 0
    while 2 * sum(int(np.prod(shape)) for shape in found.values()) < megabytes * 1_000_000:
        found |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
        number += 1
    return found


class Trainer:
    """Masters in fp32 that move by small steps."""

    def __init__(self, megabytes: int) -> None:
        torch.manual_seed(0)
        self._masters = {name: torch.randn(s) * 0.02 for name, s in shapes(megabytes).items()}

    def step(self, rate: float) -> None:
        """Move all weights."""
        for master in self._masters.values():
            master += rate * (torch.randint(0, 2, master.shape) * 2 - 1)

    def weights(self) -> dict[str, torch.Tensor]:
        """What is published."""
        return {name: master.to(torch.bfloat16) for name, master in self._masters.items()}


def bits(tensors: dict[str, torch.Tensor]) -> Weights:
    """The same memory as NumPy arrays."""
    return {name: tensor.view(torch.uint16).numpy() for name, tensor in tensors.items()}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


class Rival:
    """A wire with both of its ends."""

    def __init__(self, wire: Wire, first: dict[str, torch.Tensor]) -> None:
        self.name = wire.name
        self._wire = wire
        self._last = {name: array.copy() for name, array in bits(first).items()}
        self._next = {name: array.copy() for name, array in bits(first).items()}
        self.model = {name: array.copy() for name, array in bits(first).items()}

    def sync(self, tensors: dict[str, torch.Tensor]) -> tuple[float, float, int]:
        """Seconds to publish and to apply, and bytes."""
        new = bits(tensors)

        def publish() -> Any:
            for name, array in new.items():  # the snapshot: the trainer goes on
                np.copyto(self._next[name], array)
            return self._wire.publish(self._next, self._last)

        before, sent = timed(publish)
        self._last, self._next = self._next, self._last
        after, _ = timed(lambda: self._wire.apply(sent, self.model))
        return before, after, self._wire.size(sent)


class P2u:
    """P2U with both of its ends."""

    name = "P2U"

    def __init__(self, first: dict[str, torch.Tensor], folder: Path, threads: int) -> None:
        package = folder / "model.p2u"
        self._publisher = p2u.sync.Publisher(package, when_busy="wait", jobs=threads)
        self._subscriber = p2u.sync.Subscriber(package, jobs=threads)
        self._tensors = {name: torch.empty_like(tensor) for name, tensor in first.items()}
        self.model = bits(self._tensors)
        self.sync(first)

    def sync(self, tensors: dict[str, torch.Tensor]) -> tuple[float, float, int]:
        """Seconds to publish and to apply, and bytes."""
        done: list[float] = []
        begin = time.perf_counter()
        self._publisher.publish(tensors)
        self._publisher.flush()
        # Until subscribers can fetch it; what is tidied up afterwards keeps nobody waiting.
        published = self._publisher.published[-1]
        done.append(published.snapshot + published.seconds)
        assert done[0] <= time.perf_counter() - begin
        after, _ = timed(lambda: self._subscriber.apply(self._tensors))
        return done[0], after, published.bytes

    def close(self) -> None:
        """End."""
        self._subscriber.close()
        self._publisher.close()


def run(size: int, runs: int, cores: int) -> list[dict[str, Any]]:
    """All formats at all rates, in this process."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-cores:]))
    torch.set_num_threads(cores)
    found = []
    for rate in STEPS.values():
        trainer = Trainer(size)
        first = trainer.weights()
        with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
            own = P2u(first, Path(folder), cores)
            ends: list[Any] = [own, *(Rival(wire, first) for wire in wires(cores))]
            best: dict[str, list[float]] = {end.name: [9e9, 9e9, 0] for end in ends}
            for number in range(runs + 1):
                before = bits(trainer.weights())
                trainer.step(rate)
                tensors = trainer.weights()
                changed = [(a != before[name]).sum() for name, a in bits(tensors).items()]
                for end in ends:
                    publish, apply, size_ = end.sync(tensors)
                    assert digest(end.model) == digest(bits(tensors)), end.name
                    if number:  # the first one touches memory for the first time
                        old = best[end.name]
                        best[end.name] = [min(old[0], publish), min(old[1], apply), size_]
            own.close()
        total = sum(tensor.numel() for tensor in first.values())
        for name, (publish, apply, size_) in best.items():
            found.append(
                {
                    "changed, %": 100 * int(sum(changed)) / total, "cores": cores, "format": name,
                    "kB": size_ / 1e3, "publish, s": publish, "apply, s": apply,
                }
            )  # fmt: skip
    return found


def show(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Print the table, with the times to *in use*, and write it to a CSV."""
    out = []
    for row in rows:
        cells = {key: f"{value:.2g}" for key, value in row.items() if key != "format"}
        cells |= {"format": row["format"], "kB": f"{row['kB']:,.0f}"}
        cells |= {key: f"{row[key]:.3f}" for key in ("publish, s", "apply, s")}
        for line, rate in RATES.items():
            seconds = row["publish, s"] + row["kB"] * 8e3 / (rate * 1e6) + row["apply, s"]
            cells[line] = f"{seconds:.2f}"
        cells = {key: cells[key] for key in (*row, *RATES)}
        out.append(cells)
    print("\n| " + " | ".join(out[0]) + " |\n|" + "---|" * len(out[0]))
    for cells in out:
        print("| " + " | ".join(cells.values()) + " |")
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(out[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=269, help="megabytes of the model (269)")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--csv", type=Path, metavar="FOLDER", help="write the table there")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.size, args.runs, args.cores[0])))
        return
    rows = []
    for cores in args.cores:
        command = [sys.executable, __file__, "--one", "--cores", str(cores)]
        command += ["--size", str(args.size), "--runs", str(args.runs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows += json.loads(done.stdout.splitlines()[-1])
    show(rows, args.csv and args.csv / f"wires-{args.size}.csv")


if __name__ == "__main__":
    main()
