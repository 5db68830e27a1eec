"""Pairs of versions for `bench_versions.py`: MiniLM, fine-tuned for real.

    python lab/bench/finetune.py FOLDER

Contrastive training (in-batch negatives) on neighbouring sentences of the docstrings of Python's
standard library, AdamW, weights and moments in fp32, dropout on, seeds fixed. Saved in bf16 are the
model before, after 1, 3 and 8 steps at a learning rate of 2e-6, and after one epoch over all
sentences at 2e-5 from the same start.
"""

from __future__ import annotations

import importlib
import itertools
import random
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

from models import cache_dir

STEPS = (1, 3, 8)
NAMES = ("step0", *(f"step{n}" for n in STEPS), "epoch")
SMALL_RATE, RATE = 2e-6, 2e-5
SMALL_BATCH, BATCH = 64, 32
SEED = 1


def sentences() -> list[tuple[str, str]]:
    """Neighbouring sentences of docstrings, shuffled."""
    found: list[tuple[str, str]] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for text in re.findall(r'"""(.*?)"""', path.read_text("utf-8", "replace"), flags=re.DOTALL):
            parts = [re.sub(r"\s+", " ", s).strip() for s in re.split(r"(?<=[.!?])\s", text)]
            parts = [s for s in parts if 40 < len(s) < 300]
            found += itertools.pairwise(parts)
    random.Random(SEED).shuffle(found)
    return found


class Trainer:
    """MiniLM in training."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
        folder = cache_dir() / "minilm-fp32"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.torch.manual_seed(SEED)
        model = transformers.AutoModel.from_pretrained(folder, dtype=self.torch.float32)
        # The start is what a bf16 checkpoint holds.
        self.model = model.to(self.torch.bfloat16).float().train()

    def optimiser(self, rate: float) -> Any:
        """AdamW with its defaults."""
        return self.torch.optim.AdamW(self.model.parameters(), lr=rate)

    def _embed(self, texts: list[str]) -> Any:
        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return self.torch.nn.functional.normalize(mean, dim=-1)

    def step(self, optimiser: Any, pairs: list[tuple[str, str]]) -> float:
        """One step; returns the loss."""
        one, two = (self._embed(list(side)) for side in zip(*pairs, strict=True))
        truth = self.torch.arange(len(pairs))
        loss = self.torch.nn.functional.cross_entropy(20 * one @ two.T, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss)

    def save(self, path: Path) -> None:
        """Write the weights in bf16."""
        save = importlib.import_module("safetensors.torch").save_file
        tensors = {
            name: (t.to(self.torch.bfloat16) if t.is_floating_point() else t).contiguous()
            for name, t in self.model.state_dict().items()
        }
        part = path.with_suffix(".part")
        save(tensors, part)
        part.replace(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes", flush=True)


def make(folder: Path) -> None:
    """Make the pairs that are missing."""
    paths = {name: folder / f"{name}.safetensors" for name in NAMES}
    if all(path.is_file() for path in paths.values()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    texts = sentences()
    trainer = Trainer()
    trainer.save(paths["step0"])
    optimiser = trainer.optimiser(SMALL_RATE)
    for n in range(max(STEPS)):
        trainer.step(optimiser, texts[n * SMALL_BATCH : (n + 1) * SMALL_BATCH])
        if n + 1 in STEPS:
            trainer.save(paths[f"step{n + 1}"])
    trainer = Trainer()
    optimiser = trainer.optimiser(RATE)
    for at in range(0, len(texts) - BATCH + 1, BATCH):
        loss = trainer.step(optimiser, texts[at : at + BATCH])
        if at // BATCH % 20 == 0:
            print(f"epoch: {at} of {len(texts)} pairs, loss {loss:.3f}", flush=True)
    trainer.save(paths["epoch"])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
