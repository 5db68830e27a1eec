"""A live ONNX Runtime session compared with a plain one: speed, pauses and memory.

    python lab/bench/bench_onnx.py [MODEL.onnx]

By default the text recogniser of the PyPI package ``rapidocr-onnxruntime`` (PP-OCRv4, 10.9 MB; pip
install it with --no-deps). Prints the time of a run with a plain session, with ``p2u.onnx.session``
at the exact state and with weights as inputs (turn by turn, the median counts); how long it takes
to build a session; and the peak memory of processes that do either.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import p2u

ROUNDS = 15
#: For sizes that the model leaves open.
FREE = (1, 3, 48, 320)
CHILD = """
import sys, onnxruntime as ort, p2u
{code}
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(lines["VmHWM"].split()[0]) / 1024)
"""
PLAIN = "s = ort.InferenceSession(sys.argv[1])"
LIVE = "s = p2u.onnx.session(sys.argv[1], weights={!r}); s.wait('exact')"


def find_model() -> Path:
    """The argument, or the recogniser."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    places = spec.submodule_search_locations if spec else None
    for place in places or []:
        for path in Path(place).glob("models/*rec*.onnx"):
            return path
    raise SystemExit("no model: pip install --no-deps rapidocr-onnxruntime, or name a file")


def inputs(session: Any) -> dict[str, np.ndarray]:
    """Any input of the right shape; free sizes are those of a batch of one line of text."""
    rng = np.random.default_rng(0)
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    out = {}
    for value in session.get_inputs():
        sizes = zip(value.shape, FREE, strict=False)
        shape = [size if isinstance(size, int) else free for size, free in sizes]
        out[value.name] = rng.random(shape).astype(types[value.type])
    return out


def peak(code: str, argument: Path) -> float:
    """Peak memory of a fresh process in MiB."""
    command = [sys.executable, "-c", CHILD.format(code=code), str(argument)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Command line."""
    path = find_model()
    with tempfile.TemporaryDirectory() as tmp:
        package = Path(tmp, "package")
        p2u.pack(path, package)
        begin = time.perf_counter()
        plain = ort.InferenceSession(str(path))
        build = time.perf_counter() - begin
        feed = inputs(plain)
        runs: dict[str, Callable[[], Any]] = {"plain": lambda: plain.run(None, feed)}
        for weights in ("session", "inputs"):
            live = p2u.onnx.session(package, state="exact", weights=weights)
            runs[f"p2u, weights={weights!r}"] = lambda live=live: live.run(None, feed)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                begin = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - begin)
        base = statistics.median(times["plain"])
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB; built in {1000 * build:.0f} ms")
        print("| session | run ms | of plain | peak MiB |")
        print("|---|---|---|---|")
        codes = (PLAIN, LIVE.format("session"), LIVE.format("inputs"))
        for (name, seconds), code in zip(times.items(), codes, strict=True):
            middle = statistics.median(seconds)
            memory = peak(code, path if code == PLAIN else package)
            print(f"| {name} | {1000 * middle:.1f} | {middle / base:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
