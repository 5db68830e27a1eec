"""The live PyTorch model: pauses, throughput while it refines, peak memory.

    sudo python lab/bench/bench_live.py [minilm-bf16 ...] [--rate 100] [--rounds 3]

Three tables, each model through `transformers` (which has to be installed):

- *pause*: for how long a commit keeps callers out, by staging, compared with one forward pass of
  the same model over one sentence (16 tokens) and over a batch of 8 texts of 128 tokens; best and
  worst of the rounds.
- *throughput*: calls per second while updates arrive over a shaped link of ``--rate`` Mbit/s from
  nginx (`p2u_lab.network.link`: needs root, iproute2 and nginx), compared with the same model at
  rest, in turns. Link and server share the processors with the model, so there is a control: the
  model at rest while curl drops the same bytes from the same server. And the processor time that
  refining takes when the model does nothing, as a share of all processors.
- *memory*: peak of a process that loads the model and waits for the exact state, less what the
  process had before, compared with the size of the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decoding import read_manifest
from models import WEIGHTS, cache_dir

import p2u
from p2u_lab.network.link import Link

MIB = 1 << 20
STAGINGS = ("copy", "chunks")

#: Loads a package into modules made from its tensors' names; prints bytes before and at the peak.
MEMORY = """
import json, sys, time
import numpy, torch, torch.nn as nn
import p2u, urllib3, ml_dtypes
from safetensors import safe_open

p2u.Replica, p2u.torch.load  # imported now, so that their memory is not counted

def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) << 10

def make():
    root = nn.Module()
    for name, (shape, dtype) in tensors.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        empty = torch.empty(shape, dtype=dtype, device="meta")
        owner.register_parameter(last, nn.Parameter(empty, requires_grad=False))
    return root

package, weights, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with safe_open(weights, "pt") as file:
    tensors = {n: (file.get_slice(n).get_shape(), file.get_tensor(n).dtype) for n in file.keys()}
del file
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
model = p2u.torch.load(package, make, **options)
model.p2u.wait()
print(json.dumps([before, status("VmHWM")]))
"""


def transformer(source: str, **options: Any) -> Any:
    """The model of a package."""
    import transformers

    transformers.logging.set_verbosity_error()
    return p2u.torch.from_pretrained(source, transformers.AutoModel, **options)


def inputs(batch: int, tokens: int) -> dict[str, Any]:
    """Some texts as token numbers, shape (batch, tokens)."""
    import torch

    ids = torch.randint(1000, 20000, (batch, tokens), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def seconds_per_call(model: Any, batch: dict[str, Any], least: float = 3.0) -> float:
    """Best of as many calls as fit into some time."""
    best, end = float("inf"), time.perf_counter() + least
    while time.perf_counter() < end:
        begin = time.perf_counter()
        model(**batch)
        best = min(best, time.perf_counter() - begin)
    return best


def pauses(package: Path, name: str, rounds: int) -> None:
    """One line per staging: pauses of both commits, and forward passes."""
    short, long = inputs(1, 16), inputs(8, 128)
    for staging in STAGINGS:
        found: dict[str, list[float]] = {"8bit": [], "exact": []}
        for _ in range(rounds):
            model = transformer(str(package), staging=staging)
            model.p2u.wait()
            for commit in model.p2u.commits:
                found[commit.state].append(1000 * commit.pause)
        one = 1000 * seconds_per_call(model, short)
        many = 1000 * seconds_per_call(model, long)
        eight, exact = (f"{min(v):6.1f} {max(v):6.1f}" for v in found.values())
        print(f"  {name:12} {staging:7} {eight}   {exact}   {one:8.1f} {many:8.1f}", flush=True)


@contextmanager
def serving(package: Path, rate: float) -> Iterator[str]:
    """A package behind a link of some Mbit/s, for threads that this one starts."""
    with Link(rate) as link, tempfile.TemporaryDirectory() as work:
        url = link.serve(package, Path(work))
        with link.inside("client"):
            yield url


def calls_per_second(model: Any, batch: dict[str, Any], until: Callable[[], bool]) -> float:
    """Calls per second until something is true."""
    begin, count = time.perf_counter(), 0
    while not until():
        model(**batch)
        count += 1
    return count / (time.perf_counter() - begin)


def load_of_refining(url: str) -> float:
    """Processor time of a model that only refines, as a share of what there is meanwhile."""
    model = transformer(url)
    begin, used = time.perf_counter(), time.process_time()
    model.p2u.wait()
    span = time.perf_counter() - begin
    return (time.process_time() - used) / span / (os.cpu_count() or 1)


def update_urls(url: str, package: Path) -> list[str]:
    """Where the bytes of all updates behind the base are."""
    manifest = read_manifest(package)
    blobs = [blob for update in manifest.updates if update.source for blob in update.blobs]
    return [f"{url}/{blob.key}" for blob in blobs]


def calls_beside_curl(model: Any, batch: dict[str, Any], urls: Sequence[str]) -> float:
    """Calls per second while curl fetches and drops some files."""
    command = ["curl", "--silent", "--fail"]
    for url in urls:
        command += ["--output", os.devnull, url]
    with subprocess.Popen(command) as curl:
        found = calls_per_second(model, batch, lambda: curl.poll() is not None)
    if curl.returncode:
        raise RuntimeError(f"curl ended with {curl.returncode}")
    return found


def throughput(package: Path, name: str, rate: float, rounds: int) -> None:
    """One line per kind of request: calls per second at rest, and the ratios."""
    for label, batch in (("1 x 16", inputs(1, 16)), ("8 x 128", inputs(8, 128))):
        rest, control, live, spans = [], [], [], []
        with serving(package, rate) as url:
            share = load_of_refining(url)
            still = transformer(str(package), background=False)
            for _ in range(rounds):
                for _ in range(5):
                    still(**batch)
                model = transformer(url)
                model(**batch)
                begin = time.perf_counter()
                live.append(calls_per_second(model, batch, lambda m=model: m.p2u.state == "exact"))
                spans.append(time.perf_counter() - begin)
                control.append(calls_beside_curl(still, batch, update_urls(url, package)))
                end = time.perf_counter() + max(spans[-1], 1.0)
                rest.append(
                    calls_per_second(still, batch, lambda end=end: time.perf_counter() > end)
                )
        found = [
            statistics.median(a / b for a, b in zip(live, others, strict=True))
            for others in (rest, control)
        ]
        print(
            f"  {name:12} {label:8} {statistics.median(rest):8.1f}  {found[0]:8.3f} {found[1]:8.3f}"
            f" {statistics.median(spans):8.1f} s   {100 * share:5.1f} %",
            flush=True,
        )


def memory(package: Path, name: str) -> None:
    """One line per mode: peak beyond what was there before."""
    weights = cache_dir() / name / WEIGHTS
    model = sum(path.stat().st_size for path in (cache_dir() / name).rglob("*") if path.is_file())
    for options in ({"mode": "eager"}, {"staging": "chunks"}, {"staging": "copy"}):
        out = subprocess.run(
            [sys.executable, "-c", MEMORY, str(package), str(weights), json.dumps(options)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        before, peak = json.loads(out.stdout.splitlines()[-1])
        more = (peak - before - model) / MIB
        kind = options.get("staging", "eager")
        print(
            f"  {name:12} {kind:7} {model / MIB:8.0f} {(peak - before) / MIB:8.0f} {more:+8.0f}",
            flush=True,
        )


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = ["minilm-fp32", "mpnet-fp32"]
    parser.add_argument("models", nargs="*", default=default)
    parser.add_argument("--rate", type=float, default=100, help="Mbit/s (100)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("pause", "throughput", "memory"))
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    logging.getLogger("p2u").setLevel(logging.ERROR)  # position_ids, which transformers makes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as tmp:
        packages = {name: Path(tmp, name) for name in args.models}
        for name, package in packages.items():
            p2u.pack(cache_dir() / name, package)
        if args.only in (None, "pause"):
            print("pause, ms      staging  8bit: best worst   exact: best worst   1 x 16  8 x 128")
            for name, package in packages.items():
                pauses(package, name, args.rounds)
        if args.only in (None, "throughput"):
            print(
                f"calls/s at {args.rate:g} Mbit/s      at rest  ratio to it  to curl     for  CPUs"
            )
            for name, package in packages.items():
                throughput(package, name, args.rate, args.rounds)
        if args.only in (None, "memory"):
            print("memory, MiB    mode       model     peak   beyond")
            for name, package in packages.items():
                memory(package, name)


if __name__ == "__main__":
    main()
