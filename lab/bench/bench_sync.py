"""Weight sync: bytes per step of training, what the trainer waits for, memory of a swap.

    python lab/bench/bench_sync.py                             # the tables of docs/versions.md
    python lab/bench/bench_sync.py --steps 3 --only lora       # one of them
    python lab/bench/bench_sync.py --csv docs/data/tables

MiniLM is trained as in `finetune.py`, on one thread, in batches of 8 pairs: AdamW, lr 2e-6 for all
weights, 1e-4 for LoRA adapters of rank 8 at the queries and values. After every step a version is
published:

- *from nothing*, *per sync*: bytes as a part of the tensors' bytes, the mean of the syncs;
- *made in*: from the beginning of its encoding until a subscriber can fetch it;
- *snapshot*: how long `Publisher.publish` keeps the trainer waiting; the median.

The swap: a process that holds the model live (`p2u.open`) goes on to the next version; the peak of
its memory meanwhile, less what it had before.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import finetune
import torch
from torch import nn

import p2u

RANK, BATCH = 8, 8
MIB = 1 << 20

SWAP = """
import sys, numpy, p2u
def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) << 10
with p2u.open(sys.argv[1]) as replica:
    replica.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    replica.refresh()
    replica.wait()
    print(replica.version, before, status("VmHWM"), max(c.pause for c in replica.commits[-1:]))
"""


class Lora(nn.Module):
    """A linear layer with an adapter of low rank; only the adapter is trained."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(RANK, layer.in_features) / layer.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output and the adapter's."""
        return self.layer(x) + 2 * (x @ self.lora_A.T) @ self.lora_B.T


class Run:
    """A trainer and what of it is published.

    Args:
        lora: Train adapters only.
    """

    def __init__(self, *, lora: bool) -> None:
        self._trainer = finetune.Trainer()
        self.model: nn.Module = self._trainer.model
        if lora:
            self.model.requires_grad_(False)
            for block in self.model.encoder.layer:
                attention = block.attention.self
                attention.query, attention.value = Lora(attention.query), Lora(attention.value)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(trained, lr=1e-4 if lora else finetune.SMALL_RATE)
        self._pairs = finetune.sentences()
        self._steps = 0

    def step(self) -> None:
        """Take one."""
        at = self._steps * BATCH % (len(self._pairs) - BATCH)
        self._trainer.step(self._optimiser, self._pairs[at : at + BATCH])
        self._steps += 1

    def weights(self) -> dict[str, torch.Tensor]:
        """What is trained."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def moments(self) -> dict[str, torch.Tensor]:
        """What the optimizer keeps."""
        slots = self._optimiser.state_dict()["state"]
        return {f"{n}.{key}": value for n, slot in slots.items() for key, value in slot.items()}


def sync(
    run: Run, what: Callable[[], dict[str, torch.Tensor]], dtype: Any, steps: int
) -> list[Any]:
    """Bytes and times of publishing something after every step."""
    run.step()
    with tempfile.TemporaryDirectory() as tmp:
        with p2u.sync.Publisher(Path(tmp, "pkg"), dtype=dtype) as publisher:
            publisher.publish(what())
            publisher.flush()
            for _ in range(steps):
                run.step()
                publisher.publish(what())
                publisher.flush()
            first, *rest = publisher.published
        size = sum(
            t.numel() * (2 if dtype is not None and t.is_floating_point() else t.element_size())
            for t in what().values()
        )
    part = mean(found.bytes for found in rest)
    return [
        f"{size / 1e6:.2f}",
        f"{first.bytes / size:.3f}",
        f"{part / size:.4f}",
        f"{part / 1e3:,.0f}",
        f"{mean(found.seconds for found in rest):.2f}",
        f"{1e3 * median(found.snapshot for found in rest):.1f}",
    ]


KINDS: dict[str, tuple[str, bool, str, Any]] = {
    "bf16": ("weights, bf16", False, "weights", torch.bfloat16),
    "fp32": ("weights, fp32 masters", False, "weights", None),
    "lora": ("LoRA adapters, fp32", True, "weights", None),
    "lora16": ("LoRA adapters, bf16", True, "weights", torch.bfloat16),
    "adamw": ("AdamW's moments, fp32", False, "moments", None),
}
SYNC = ("", "MB", "from nothing", "per sync", "kB per sync", "made in, s", "snapshot, ms")
MEMORY = ("", "model, MiB", "before, MiB", "peak beyond, MiB", "pause, ms")


def swap(dtype: Any) -> list[str]:
    """Memory and pause of a live change of version."""
    run = Run(lora=False)
    with tempfile.TemporaryDirectory() as tmp:
        package = Path(tmp, "pkg")
        with p2u.sync.Publisher(package, dtype=dtype) as publisher:
            publisher.publish(run.weights())
            publisher.flush()
            process = subprocess.Popen(
                [sys.executable, "-c", SWAP, str(package)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            run.step()
            publisher.publish(run.weights())
            publisher.flush()
        out, _ = process.communicate("\n")
        size = sum(
            path.stat().st_size for path in (package.parent / ".pkg.sync" / "last").iterdir()
        )
    version, before, peak, pause = out.split()
    assert version == "step1", out
    return [
        f"{size / MIB:.0f}",
        f"{int(before) / MIB:.0f}",
        f"{(int(peak) - int(before)) / MIB:.0f}",
        f"{1e3 * float(pause):.1f}",
    ]


def show(title: tuple[str, ...], rows: list[list[str]], path: Path | None) -> None:
    """Print a table, and write it to a CSV."""
    for row in (title, *rows):
        print(f"{row[0]:24}" + "".join(f"{cell:>18}" for cell in row[1:]))
    if path is not None:
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows((title, *rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", choices=(*KINDS, "swap"))
    parser.add_argument("--csv", type=Path, metavar="FOLDER", help="write the tables there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rows = []
    for key, (title, lora, what, dtype) in KINDS.items():
        if args.only in (None, key):
            run = Run(lora=lora)
            rows.append([title, *sync(run, getattr(run, what), dtype, args.steps)])
            print(json.dumps(rows[-1]), flush=True)
    if rows:
        show(SYNC, rows, args.csv and args.csv / "versions-sync.csv")
    if args.only in (None, "swap"):
        found = [
            [f"MiniLM {name}", *swap(dtype)]
            for name, dtype in (("bf16", torch.bfloat16), ("fp32", None))
        ]
        show(MEMORY, found, args.csv and args.csv / "versions-memory.csv")


if __name__ == "__main__":
    main()
