"""Time to the first inference over a shaped link: P2U, a plain download, and the rivals.

    sudo python bench/bench_start.py minilm-bf16 minilm-fp32 --rates 5 20 100 1000
    sudo python bench/bench_start.py mpnet-bf16 mpnet-fp32 --rates 20 100 1000

A real client fetches real packages from a real nginx in another network namespace (`link.py`).
The clock runs from the start of the process to the answer. Needs root, iproute2 and nginx. The
rate is the line's; the goodput column is what the plain download got of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from link import Link, congestion_control
from models import WEIGHTS, cache_dir
from rivals import Lmz, ZipNN
from start_client import ASIDE, CLIENTS
from traces import mean_mbit, read_trace

import p2u

#: The relay keeps up to this rate (Mbit/s); above, the rate alone is shaped.
RELAY_MBIT = 1000


def prepare(model: Path, root: Path, bits: float) -> None:
    """The files that the server has: as they are, packed, and compressed by the rivals."""
    alike = root / "model"  # all methods fetch the same three files
    alike.mkdir()
    for name in (WEIGHTS, *ASIDE):
        shutil.copy(model / name, root)
        os.link(root / name, alike / name)
    p2u.pack(alike, root / "package", bits=bits)
    (root / "model.znn").write_bytes(ZipNN().pack(model / WEIGHTS, root, 2)())
    made = Lmz("2 MiB chunks", chunk_size=2 << 20).pack(model / WEIGHTS, root, 2)()
    assert made.name == "model.lmz"


def measure(
    model: str, root: Path, line: dict[str, Any], methods: list[str]
) -> dict[str, dict[str, Any]]:
    """All methods on one link, one after the other, each from the beginning of a trace."""
    found = {}
    with Link(**line) as link, tempfile.TemporaryDirectory() as work:
        url = link.serve(root, Path(work))
        for method in methods:
            command = [sys.executable, str(Path(__file__).with_name("start_client.py"))]
            if "trace" in line:
                link.restart_trace()
            begin = time.monotonic()
            out = link.run("client", [*command, method, model, url, str(begin)])
            found[method] = json.loads(out)
    if len({(r["sha256"], r["score"]) for r in found.values()}) != 1:
        raise SystemExit(f"the exact answers differ: {found}")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="directories in the cache, like minilm-bf16")
    parser.add_argument("--rates", nargs="+", type=float, default=[5, 20, 100, 1000])
    parser.add_argument("--trace", type=Path, help="instead of rates: a file made by traces.py")
    parser.add_argument("--rtt", type=float, default=20, help="ms; not above 1000 Mbit/s (20)")
    parser.add_argument("--methods", nargs="+", default=list(CLIENTS), choices=list(CLIENTS))
    parser.add_argument("--bits", type=float, default=3.5, help="of P2U's base (3.5)")
    parser.add_argument("--runs", type=int, default=1, help="the median counts (1)")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    args = parser.parse_args()
    everything = []
    print(f"{socket.gethostname()}: {congestion_control()}, sendfile by nginx, NumPy models")
    for model in args.models:
        with tempfile.TemporaryDirectory() as tmp:
            root = Path(tmp)
            prepare(cache_dir() / model, root, args.bits)
            size = (root / WEIGHTS).stat().st_size
            print(f"\n{model}: {size / 1e6:.1f} MB")
            print("| Mbit/s | RTT ms | goodput | method | first answer s | sooner | exact s | of plain |")  # noqa: E501  # fmt: skip
            print("|---|---|---|---|---|---|---|---|")
            for mbit, rtt, rate in rates(args):
                line = {**rate, "rtt_ms": rtt}
                runs = [measure(model, root, line, args.methods) for _ in range(args.runs)]
                everything.append({"model": model, "mbit": mbit, "rtt": rtt, "runs": runs})
                show(runs, mbit, rtt, size)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


def rates(args: argparse.Namespace) -> list[tuple[float, float, dict[str, Any]]]:
    """Mbit/s, round trip in ms and what the link is told of its rate."""
    if args.trace:
        trace = read_trace(args.trace.read_text())
        return [(mean_mbit(trace), args.rtt, {"trace": trace})]
    return [(m, args.rtt if m <= RELAY_MBIT else 0, {"mbit": m}) for m in args.rates]


def show(runs: list[dict[str, Any]], mbit: float, rtt: float, size: int) -> None:
    """One row per method."""

    def median(method: str, what: str) -> float:
        values = sorted(run[method][what] for run in runs)
        return float(values[len(values) // 2])

    plain = median("plain", "first") if "plain" in runs[0] else float("nan")
    for method in runs[0]:
        first, exact = median(method, "first"), median(method, "exact")
        print(
            f"| {mbit:g} | {rtt:g} | {8e-6 * size / plain:.1f} | {method} | {first:.2f} "
            f"| {plain / first:.2f} x | {exact:.2f} | {exact / plain:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
