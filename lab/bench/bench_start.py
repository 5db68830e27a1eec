"""Time to the first inference over a shaped link: P2U, a plain download, and the rivals.

    sudo python lab/bench/bench_start.py minilm-bf16 minilm-fp32 --rates 5 20 100 1000
    sudo python lab/bench/bench_start.py mpnet-bf16 mpnet-fp32 --rates 20 100 1000

A real client fetches real packages from a real nginx in another network namespace
(`p2u_lab.network`). The clock runs from the start of the process to the answer. Needs root,
iproute2, nginx and rustc. The rate is the line's; the goodput column is what the client got of it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
from dataclasses import asdict
from pathlib import Path

from models import WEIGHTS, cache_dir
from start_users import ASIDE

from p2u_lab.network.offer import METHODS, Offer, prepare
from p2u_lab.network.spec import LinkSpec
from p2u_lab.network.transfers import TransferResult, transfer

#: The relay keeps up to this rate (Mbit/s); above, the rate alone is shaped.
RELAY_MBIT = 1000


def offer(model: Path, root: Path, bits: float, methods: list[str]) -> Offer:
    """What the server has of a model: all methods bring the same three files."""
    alike, served = root / "alike", root / "served"
    alike.mkdir()
    served.mkdir()
    for name in (WEIGHTS, *ASIDE):
        (alike / name).symlink_to((model / name).resolve())
    made, missing = prepare(alike, served, methods, bits=bits)
    for method, why in missing.items():
        print(f"without {method}: {why}")
    return made


def measure(made: Offer, model: str, line: LinkSpec) -> dict[str, TransferResult]:
    """All methods on one line, one after the other, each from the beginning of a trace."""
    how = {"user": "start_users:Encoder", "options": {"model": model}, "states": ("base", "exact")}
    found = {result.method: result for result in transfer(made, line, **how)}
    if len({result.states[-1].answer for result in found.values()}) != 1:
        raise SystemExit(f"the exact answers differ: {found}")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="directories in the cache, like minilm-bf16")
    parser.add_argument("--rates", nargs="+", type=float, default=[5, 20, 100, 1000])
    parser.add_argument("--lte", type=int, help="rates change: the seed of p2u_lab's lte_trace")
    parser.add_argument("--rtt", type=float, default=20, help="ms; not above 1000 Mbit/s (20)")
    parser.add_argument("--loss", type=float, default=0, help="share of packets (0)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--bits", type=float, default=3.5, help="of P2U's base (3.5)")
    parser.add_argument("--runs", type=int, default=1, help="the median counts (1)")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    args = parser.parse_args()
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    everything = []
    print(f"{socket.gethostname()}: sendfile by nginx, NumPy models")
    for model in args.models:
        with tempfile.TemporaryDirectory() as tmp:
            made = offer(cache_dir() / model, Path(tmp), args.bits, args.methods)
            print(f"\n{model}: {made.original / 1e6:.1f} MB")
            print("| Mbit/s | RTT ms | goodput | method | first answer s | sooner | exact s | of plain |")  # noqa: E501  # fmt: skip
            print("|---|---|---|---|---|---|---|---|")
            for mbit in args.rates:
                rtt = args.rtt if mbit <= RELAY_MBIT else 0
                line = LinkSpec(mbit, rtt, loss=args.loss, lte_seed=args.lte)
                runs = [measure(made, model, line) for _ in range(args.runs)]
                everything += [{"model": model, **asdict(r)} for run in runs for r in run.values()]
                show(runs)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


def show(runs: list[dict[str, TransferResult]]) -> None:
    """One row per method."""

    def median(method: str, what: str) -> float:
        values = sorted(float(getattr(run[method], what)) for run in runs)
        return values[len(values) // 2]

    plain = median("plain", "first") if "plain" in runs[0] else float("nan")
    for method, result in runs[0].items():
        first, exact = median(method, "first"), median(method, "exact")
        print(
            f"| {result.link.mbit:g} | {result.link.rtt_ms:g} | {median(method, 'goodput'):.1f} "
            f"| {method} | {first:.2f} | {plain / first:.2f} x | {exact:.2f} "
            f"| {exact / plain:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
