"""Latency, streams of requests and serving of real models, as CSV: `p2u_lab.network`.

    sudo python lab/bench/bench_network.py minilm-fp32 resnet20 --out results
    sudo python lab/bench/bench_network.py minilm-fp32 --parts stream --rates 20 --seconds 60
    python lab/bench/bench_network.py resnet20 --parts serving          # needs no root

- ``links``: times to each state over shaped lines, as arrays in memory, compared with arithmetic.
- ``first``: the same with PyTorch, from the process's start to the first inference of each state.
- ``stream``: requests from the process's start on; of a real PyTorch client, and computed from the
  times of ``first`` and the task's scores of each state.
- ``serving``: speed and memory at each state and while refining, compared with the
  publisher's files.
"""

from __future__ import annotations

import argparse
import csv
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import p2u
from p2u_lab import language, vision
from p2u_lab.network.items import image_items, wordnet_items
from p2u_lab.network.load_test import serving
from p2u_lab.network.offer import Offer, prepare
from p2u_lab.network.spec import LinkSpec
from p2u_lab.network.streams import stream, stream_live
from p2u_lab.network.transfers import TransferResult, transfer

PARTS = ("links", "first", "stream", "serving")
MODELS = {**language.MODELS, **vision.MODELS}
TASKS = {**language.TASKS, **vision.TASKS}


class Study:
    """One model: its files, what is offered of them, and labelled items."""

    def __init__(self, name: str, args: argparse.Namespace, work: Path) -> None:
        self.name, self.args, self.work = name, args, work
        model = MODELS[name]()
        self.folder = model.folder(lambda text, done, total: None)
        self.task = next(task for task in model.tasks if task in TASKS)
        (work / "root").mkdir()
        self.offer: Offer
        self.offer, missing = prepare(self.folder, work / "root", args.methods, bits=args.bits)
        for method, why in missing.items():
            print(f"{name}: without {method}: {why}")

    @property
    def options(self) -> dict[str, Any]:
        """Of a PyTorch user; the items are made once."""
        file = self.work / "items.npz"
        make = wordnet_items if self.task.startswith("wordnet") else self._images
        made = make(self.folder, file, self.args.items)
        # Processors without 16-bit arithmetic compute in float32.
        return {**made, "threads": self.args.threads, "dtype": "float32"}

    def _images(self, folder: Path, file: Path, count: int) -> dict[str, Any]:
        return image_items(folder, self.task, file, count)

    def lines(self) -> Iterator[LinkSpec]:
        args = self.args
        for rate in args.rates:
            for rtt in args.rtt:
                for loss in args.loss:
                    yield LinkSpec(rate, rtt, args.jitter, loss, args.lte)

    def times(self, user: str, options: dict[str, Any] | None) -> list[dict[str, Any]]:
        rows = []
        for line in self.lines():
            for run in range(self.args.runs):
                for found in transfer(self.offer, line, user=user, options=options):
                    rows += [self._state(found, n, run) for n in range(len(found.states))]
                    self._say(found)
        return rows

    def _say(self, found: TransferResult) -> None:
        states = ", ".join(f"{s.label} {s.usable:.2f} s ({s.error:+.0%})" for s in found.states)
        goodput = f"{found.goodput:.2f} Mbit/s"
        print(f"{self.name} {found.link.name} {found.method}: {states}; {goodput}", flush=True)

    def _state(self, found: TransferResult, number: int, run: int) -> dict[str, Any]:
        state = asdict(found.states[number])
        del state["answer"]
        down = found.relay.get("down", {})
        counts = {key: down.get(key) for key in ("lost", "dropped", "late", "unread")}
        return {
            "model": self.name, "user": found.user, "run": run, "method": found.method,
            **asdict(found.link), "used_congestion": found.congestion,
            "goodput": found.goodput, "asked": found.asked, **state,
            "received": found.received, "peak_rss": found.peak_rss, **counts,
        }  # fmt: skip

    def streams(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        args, rows = self.args, []
        how = {"rate": args.requests, "seconds": args.seconds, "patience": args.patience}
        values = self._values()
        for line in self.lines():
            for found in transfer(self.offer, line, user="torch", options=options):
                self._say(found)
                times = [(state.label, state.usable) for state in found.states]
                rows += self._seconds(line, stream(found.method, times, values, **how))
            live = stream_live(self.offer, line, items=args.items, options=options, **how)
            for _, answered in live:
                rows += self._seconds(line, answered)
        return rows

    def _values(self) -> dict[str, Any]:
        """How right each state is on each item."""
        task, found = TASKS[self.task](limit=self.args.items), {}
        for state in ("base", "8bit", "exact"):
            target = self.work / state
            p2u.pull(self.offer.root / "package", target, until=state)
            found[state] = task.scores(target).values
        return found

    def _seconds(self, line: LinkSpec, found: Any) -> list[dict[str, Any]]:
        kind = "measured" if found.measured else "computed"
        print(
            f"{self.name} {line.name} {found.method} {kind}: {found.answered} of {found.requests} "
            f"answered, {found.right:g} right, by {dict(found.states)}, latency {found.latency}",
            flush=True,
        )
        same = {
            "model": self.name, "link": line.name, "method": found.method, "kind": kind,
            "rate": found.rate, "patience": found.patience,
        }  # fmt: skip
        return [
            {**same, "second": n + 1, "requests": requests, "answered": answered, "right": right}
            for n, (requests, answered, right) in enumerate(found.every)
        ]

    def serve(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        package, plain = self.offer.root / "package", {**options, "dtype": None}
        for found in serving(self.folder, package, options=plain, batches=self.args.batches):
            rows.append({"model": self.name, **asdict(found)})
            print(
                f"{self.name} {found.source} {found.phase} {found.state} x{found.batch}: "
                f"{found.throughput:.1f}/s, p50 {found.p50:.1f} p99 {found.p99:.1f} "
                f"worst {found.worst:.1f} cpu {found.cpu:.1f} ms, "
                f"peak {found.model_rss / 2**20:.0f} MiB more",
                flush=True,
            )
        return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A table; nothing if it is empty."""
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", choices=sorted(MODELS), metavar="MODEL")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", default=["p2u", "plain", "zipnn", "lmz"])
    parser.add_argument("--rates", nargs="+", type=float, default=[5, 20, 100], help="Mbit/s")
    parser.add_argument("--rtt", nargs="+", type=float, default=[20], help="ms")
    parser.add_argument("--loss", nargs="+", type=float, default=[0], help="share of packets")
    parser.add_argument("--jitter", type=float, default=0, help="ms")
    parser.add_argument("--lte", type=int, help="rates change: the seed of the made-up line")
    parser.add_argument("--bits", type=float, default=3.5, help="of P2U's base (3.5)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--items", type=int, default=400, help="labelled ones, of streams (400)")
    parser.add_argument("--requests", type=float, default=10, help="per second, of streams (10)")
    parser.add_argument("--seconds", type=float, default=60, help="of streams (60)")
    parser.add_argument("--patience", type=float, default=1, help="s that a request waits (1)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="of serving")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    args = parser.parse_args()
    print(f"{socket.gethostname()}: {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    tables: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for name in args.models:
        with tempfile.TemporaryDirectory() as tmp:
            study = Study(name, args, Path(tmp))
            options = study.options if set(args.parts) - {"links"} else {}
            if "links" in args.parts:
                tables["links"] += study.times("arrays", None)
            if "first" in args.parts:
                tables["first"] += study.times("torch", options)
            if "stream" in args.parts:
                tables["stream"] += study.streams(options)
            if "serving" in args.parts:
                tables["serving"] += study.serve(options)
        for part, rows in tables.items():
            write(args.out / f"{part}.csv", rows)


if __name__ == "__main__":
    main()
