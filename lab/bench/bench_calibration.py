"""Plain rounding and error feedback compared: the worth and the cost of a base of the same size.

    python lab/bench/bench_calibration.py                          # MiniLM, bf16
    python lab/bench/bench_calibration.py minilm-fp32 --bits 3.1
    python lab/bench/bench_calibration.py resnet20-fp32 --bits 3 4
    python lab/bench/bench_calibration.py --speed                  # what large layers take

MiniLM is calibrated on 128 docstrings of Python's standard library and judged by the embeddings of
200 others (cosine to the original's). ResNets are calibrated on 512 of CIFAR-10's training images
and judged on the 10,000 test images (`P2U_EVAL_DATA`); batch norms stay as they are. Sizes are
parts of the original's. Needs torch, transformers, tokenizers and, for ResNets, Pillow.
"""

from __future__ import annotations

import argparse
import ast
import random
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tasks
import torch
from models import cache_dir

import p2u
from p2u_lab.language.embedding import encoder
from p2u_lab.tensorfiles import WEIGHTS, write_safetensors

#: Average bits per weight, and what `--thrift` may be.
BITS = {"minilm": (3.1, 3.6), "resnet": (3.0, 4.0)}
THRIFT = (None, 0.35, 0.2, 0.1, 0.0)


def docstrings() -> list[str]:
    """Docstrings of 20 to 80 words, each once, shuffled."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                words = (ast.get_docstring(node) or "").split()
                if 20 <= len(words) <= 80:
                    found.add(" ".join(words))
    out = sorted(found)
    random.Random(0).shuffle(out)
    return out


def embedding(texts: list[str]) -> tasks.Task:
    """MiniLM on these texts."""
    from tokenizers import Tokenizer

    folder = cache_dir() / "minilm-fp32"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    batches: list[tuple[torch.Tensor, ...]] = []
    texts = sorted(texts, key=len)  # less padding
    for at in range(0, len(texts), 16):
        coded = tokenizer.encode_batch(texts[at : at + 16])
        batches.append(
            (torch.tensor([c.ids for c in coded]), torch.tensor([c.attention_mask for c in coded]))
        )
    return tasks.Task("minilm", encoder(folder), batches, None)


def both(name: str) -> tuple[tasks.Task, tasks.Task]:
    """A model to calibrate and one to judge, on different inputs."""
    if name == "minilm":
        texts = docstrings()
        return embedding(texts[:128]), embedding(texts[128:328])
    return tasks.task(name, 512, part="train"), tasks.task(name, 10_000)


def bench(folder: str, bits: list[float] | None, levels: list[str], work: Path) -> None:
    """One model: a line for each base."""
    name = folder.rpartition("-")[0]
    learn, judge = both(name)
    original = tasks.read(cache_dir() / f"{name}-fp32")
    learn.load(original)
    start = time.perf_counter()
    report = p2u.torch.calibrate(learn.module, learn.batches, work / "file")
    took = time.perf_counter() - start
    print(
        f"\n{folder}: {len(report.tensors)} tensors, {report.inputs} inputs, "
        f"{report.bytes / 1e6:.1f} MB, calibrated in {took:.1f} s"
    )
    print("original:", shown(judge.judge(original)), flush=True)
    for target in bits or BITS[name if name == "minilm" else "resnet"]:
        for thrift in THRIFT:
            options: dict[str, Any] = {}
            if thrift is not None:
                options = {"calibration": work / "file", "thrift": thrift}
            start = time.perf_counter()
            made = p2u.pack(
                cache_dir() / folder,
                work / "package",
                bits=target,
                levels=levels,
                replace=True,
                **options,
            )
            took = time.perf_counter() - start
            p2u.pull(work / "package", work / "model", until="base")
            base, last = made.states[0], made.states[-1]
            label = "rounding" if thrift is None else f"thrift {thrift}"
            print(
                f"  {label:11} {base.bits:.3f} bits  base {base.fraction:.4f}  exact "
                f"{last.fraction:.4f}  {shown(judge.judge(tasks.read(work / 'model')))}  "
                f"{took:.1f} s",
                flush=True,
            )


def shown(figures: dict[str, float]) -> str:
    """Figures on a line."""
    return "  ".join(f"{key} {value:.4f}" for key, value in figures.items())


def speed() -> None:
    """Processor time of the steps whose cost grows with a layer, for one thread."""
    torch.set_num_threads(1)
    print("columns  moments of 1000 rows  factor  rounding 2^20 weights")
    steps(64)  # the first ones also import and warm up
    for d in (384, 1536, 4096):
        moments, factor, rounding = steps(d)
        print(f"{d:7}  {moments:18.3f} s  {factor:.2f} s  {rounding:.2f} s", flush=True)


def steps(d: int) -> tuple[float, float, float]:
    """A layer of d columns and 2^20 weights: seconds of its moments, its factor, its rounding."""
    layer = torch.nn.Linear(d, (1 << 20) // d, bias=False)
    inputs = torch.randn(4000, d) * (1 + torch.rand(d))
    options: dict[str, Any] = {"levels": ("base", "exact"), "jobs": 1}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_safetensors(work / WEIGHTS, {"weight": layer.weight.detach().numpy()}, {})
        # The factor is made once, of however many rows.
        few = timed(lambda: p2u.torch.calibrate(layer, [inputs[:8]], work / "few"))
        all_ = timed(lambda: p2u.torch.calibrate(layer, [inputs], work / "all"))
        forward = timed(lambda: layer(inputs))
        plain = timed(lambda: p2u.pack(work / WEIGHTS, work / "plain", replace=True, **options))
        options["calibration"] = work / "all"
        fed = timed(lambda: p2u.pack(work / WEIGHTS, work / "fed", replace=True, **options))
    return (all_ - forward - few) * 1000 / len(inputs), few, fed - plain


def timed(call: Callable[[], Any]) -> float:
    """The processor time that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", help="directories in the cache, like minilm-bf16")
    parser.add_argument("--bits", type=float, nargs="+", help="of the base")
    parser.add_argument("--levels", default="base,exact")
    parser.add_argument("--speed", action="store_true", help="only how long large layers take")
    args = parser.parse_args()
    if args.speed:
        speed()
        return
    for folder in args.models or ["minilm-bf16"]:
        with tempfile.TemporaryDirectory() as work:
            bench(folder, args.bits, args.levels.split(","), Path(work))


if __name__ == "__main__":
    main()
