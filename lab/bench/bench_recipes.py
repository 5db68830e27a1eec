"""What recipes are worth: packages of real models, their bases judged on the models' own tasks.

    python lab/bench/bench_recipes.py                   # MiniLM
    python lab/bench/bench_recipes.py resnet20 resnet56 effnet-lite0 --bits 3 4  # P2U_EVAL_DATA

For each model and size of the base: every tensor the same number of bits (`--tensor-bits '*=BITS'`,
an equal relative error everywhere), the bits shared out by the tensors' sizes (the default), and by
their measured sensitivity, too (`p2u.torch.sensitivity` on inputs that are not among those judged
by). The tasks are in `tasks.py`; bits and bytes are those of the packages.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from models import cache_dir
from tasks import Task, read, task

import p2u

MODELS = ("minilm", "resnet20", "resnet56", "effnet-lite0")
#: Inputs to judge by, and to measure the sensitivity with.
JUDGED = {"minilm": 48, "resnet20": 2000, "resnet56": 1000, "effnet-lite0": 100}
MEASURED = {"minilm": 48, "resnet20": 500, "resnet56": 250, "effnet-lite0": 50}


def sensitivities(name: str, weights: dict[str, Any], draws: int = 4) -> dict[str, Any]:
    """Damage of each tensor by its name in the file."""
    part = "train" if name.startswith("resnet") else "test"
    other = task(name, MEASURED[name], 0 if part == "train" else JUDGED[name], part)
    other.load(weights)
    output = "values" if name == "minilm" else "logits"
    return p2u.torch.sensitivity(other.module, other.batches, output=output, draws=draws)


def base_of(name: str, judge: Task, **recipe: Any) -> tuple[float, float, dict[str, float]]:
    """Bits per weight, bytes as a fraction of the fp32 model, and what the base is worth."""
    with tempfile.TemporaryDirectory() as tmp:
        weights = cache_dir() / f"{name}-fp32" / "model.safetensors"
        report = p2u.pack(weights, Path(tmp, "p"), levels=("base", "exact"), **recipe)
        p2u.pull(Path(tmp, "p"), Path(tmp, "m"), until="base")
        state = report.states[0]
        return state.bits, state.fraction, judge.judge(read(Path(tmp, "m")))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS[:1], help=", ".join(MODELS))
    parser.add_argument("--bits", type=float, nargs="+", default=[3.0, 3.5, 4.0])
    args = parser.parse_args()
    for name in args.models:
        if name not in MODELS:
            parser.error(f"no task for {name}; choose from {', '.join(MODELS)}")
        weights = read(cache_dir() / f"{name}-fp32")
        judge = task(name, JUDGED[name])
        judge.judge(weights)
        measured = sensitivities(name, weights)
        print(f"\n{name}, {JUDGED[name]} inputs", flush=True)
        for bits in args.bits:
            recipes: dict[str, dict[str, Any]] = {
                "equal": {"tensor_bits": {"*": bits}},
                "default": {"bits": bits},
                "sensitivity": {"bits": bits, "sensitivity": measured},
            }
            for label, recipe in recipes.items():
                got, fraction, worth = base_of(name, judge, **recipe)
                numbers = "  ".join(f"{key} {value:.4f}" for key, value in worth.items())
                print(
                    f"  {label:12} {got:.3f} bits  {100 * fraction:5.2f} %  {numbers}", flush=True
                )


if __name__ == "__main__":
    main()
