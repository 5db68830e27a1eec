"""Measure compressors for model weights side by side, in one run under one rule.

The rule for times: wall clock, best of the runs, the entrants taking turns within each round.
The process is pinned to as many cores as it may use threads. Packed bytes lie in memory (or in
a RAM-backed folder, for packages that only know files); each call allocates its own output,
out of memory that the process already has (:func:`warm_memory`): the first touch of fresh pages
costs as much as decoding, and whose call happens to get them is chance. Copies that are needed
because an entrant destroys its input are not timed. GB/s are 1e9 bytes of the original file per
second. Every result is checked bit for bit.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from models import WEIGHTS, Array, read_safetensors, write_safetensors

from p2u_lab.methods.codecs import Rival, main_dtype

#: An entrant is not run again once its runs of one step took this many seconds together.
BUDGET = 30.0


def same_tensors(unpacked: dict[str, Any], weights: Path) -> bool:
    """Whether every tensor has the bytes that it has in ``weights``, and none is missing."""
    originals, _ = read_safetensors(weights)
    return unpacked.keys() == originals.keys() and all(
        raw_bytes(unpacked[name]) == original.tobytes() for name, original in originals.items()
    )


def raw_bytes(tensor: Any) -> bytes:
    """The bytes of a NumPy array or a torch tensor (bfloat16 too, which has no NumPy type)."""
    if isinstance(tensor, np.ndarray):
        return tensor.tobytes()
    torch = importlib.import_module("torch")
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


# ---------------------------------------------------------------- measuring


@dataclass
class Result:
    """What one rival did with one model; seconds are the best run's."""

    model: str
    rival: str
    setting: str
    version: str
    threads: int
    original: int = 0
    packed: int = 0
    base: int | None = None
    pack_seconds: list[float] = field(default_factory=list)
    unpack_seconds: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def ratio(self) -> float:
        """Packed bytes / original bytes."""
        return self.packed / self.original

    @property
    def pack_rate(self) -> float:
        """Original bytes / second, in GB/s."""
        return self.original / min(self.pack_seconds) / 1e9

    @property
    def unpack_rate(self) -> float:
        """Original bytes / second, in GB/s."""
        return self.original / min(self.unpack_seconds) / 1e9


def ram_folder() -> str | None:
    """A RAM-backed folder where there is one; None for the default temporary folder."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def warm_memory() -> None:
    """Start this script anew with a C library that keeps the memory it frees (glibc only).

    Call it first in ``main``. It makes ZipNN decode up to twice as fast as it does otherwise.
    """
    keep = {
        "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(64 << 30),
        "MALLOC_TOP_PAD_": str(1 << 30),
    }
    if sys.platform == "linux" and keep.items() - os.environ.items():
        os.environ.update(keep)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """Let this process, and threads it starts meanwhile, run on ``count`` cores only."""
    if not hasattr(os, "sched_setaffinity"):
        yield  # macOS, Windows: rely on each rival's own setting
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed(call: Callable[[], Any], seconds: list[float]) -> Any:
    """Run ``call`` once, append how long it took to ``seconds``, return its result."""
    gc.collect()
    start = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - start)
    return result


class Entry:
    """One rival on one model: its folder, its packed form, its result so far."""

    def __init__(self, rival: Rival, weights: Path, folder: Path, threads: int) -> None:
        self.rival, self.weights, self.folder, self.threads = rival, weights, folder, threads
        self.packed: Any = None
        model, original = weights.parent.name, weights.stat().st_size
        self.result = Result(
            model, rival.name, rival.setting, rival.version, threads, original=original
        )

    def round(self, budget: float) -> None:
        """One more timed run of each step whose runs have not used up ``budget`` seconds."""
        result, rival = self.result, self.rival
        if sum(result.pack_seconds) < budget:
            call = rival.pack(self.weights, self.folder, self.threads)
            self.packed = timed(call, result.pack_seconds)
        if sum(result.unpack_seconds) < budget:
            first = not result.unpack_seconds
            call = rival.unpack(self.packed, self.threads)
            back = timed(call, result.unpack_seconds)
            if first:
                result.packed = rival.size(self.packed)
                result.base = rival.base_size(self.packed)
                if not rival.same(back, self.weights):
                    raise ValueError("does not give back what went in")


def sample(weights: Path, path: Path, size: int = 8 << 20) -> None:
    """Write a small model of the same kind: some whole tensors, at most ``size`` bytes or one."""
    tensors, metadata = read_safetensors(weights)
    chosen: dict[str, Array] = {}
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].nbytes):
        if not chosen or sum(a.nbytes for a in chosen.values()) + array.nbytes <= size:
            chosen[name] = array.reshape(-1)[: size // array.itemsize]
    write_safetensors(path, chosen, metadata)


def measure(
    weights: Path,
    entrants: list[Rival],
    *,
    runs: int = 5,
    threads: int = 1,
    budget: float = BUDGET,
) -> list[Result]:
    """Let ``entrants`` take turns, ``runs`` times, on one safetensors file.

    Returns one result per entrant that suits the model's dtype, in their order. An entrant
    that fails, or whose output is not exact, has ``error`` set and is not run again.
    """
    dtype = main_dtype(weights)
    with tempfile.TemporaryDirectory(dir=ram_folder()) as ram, cores(threads):
        small = Path(ram) / "small" / WEIGHTS
        small.parent.mkdir()
        sample(weights, small)
        entries: list[Entry] = []
        for number, rival in enumerate(entrants):
            if rival.suits(dtype):
                folder = Path(ram) / str(number)
                folder.mkdir()
                entries.append(Entry(rival, weights, folder, threads))
        for turn in range(runs):
            for entry in entries:
                if entry.result.error is None:
                    take_turn(entry, small if turn == 0 else None, budget)
        return [entry.result for entry in entries]


def take_turn(entry: Entry, warm_up: Path | None, budget: float) -> None:
    """One round of ``entry``; before the first, an untimed one on a small model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if warm_up is not None:  # compiles what is compiled just in time, loads libraries
                Entry(entry.rival, warm_up, entry.folder, entry.threads).round(budget)
            entry.round(budget)
    except Exception as error:  # foreign code: whatever it raises is a row of the table
        entry.result.error = f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------- reporting


def table(results: list[Result]) -> str:
    """Results of one model as a text table, smallest first."""
    width = max(len(f"{r.rival} ({r.setting})") for r in results)
    lines = [f"{'':{width}}  {'bytes':>12}  {'ratio':>7}  pack GB/s  unpack GB/s  base"]
    for r in sorted(results, key=lambda r: (r.error is not None, r.packed)):
        label = f"{f'{r.rival} ({r.setting})':{width}}"
        if r.error is not None:
            lines.append(f"{label}  {r.error}")
            continue
        base = f"{r.base / r.original:.4f}" if r.base is not None else ""
        lines.append(
            f"{label}  {r.packed:>12,}  {r.ratio:.5f}  {r.pack_rate:>9.3f}"
            f"  {r.unpack_rate:>11.3f}  {base}".rstrip()
        )
    return "\n".join(lines)


def best(results: list[Result]) -> dict[str, tuple[float, float, float]]:
    """Per rival, over its settings: (least ratio, highest pack GB/s, highest unpack GB/s)."""
    out: dict[str, tuple[float, float, float]] = {}
    for r in results:
        if r.error is None:
            ratio, pack, unpack = out.get(r.rival, (r.ratio, 0.0, 0.0))
            out[r.rival] = (min(ratio, r.ratio), max(pack, r.pack_rate), max(unpack, r.unpack_rate))
    return out
