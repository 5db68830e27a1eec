"""What the clients of `bench_start.py` do with a model: NumPy sentence encoders."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from p2u_lab.network.users import User

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

#: Fetched in addition to the weights.
ASIDE = ("config.json", "tokenizer.json")
QUESTION = ["How do I get my money back?", "Refunds are paid to the card you used."]
CLASSES = {"minilm": ("minilm", "MiniLM"), "mpnet": ("mpnet", "MPNet")}


class Encoder(User):
    """Options: ``model``, the name of one of the benchmarks' models."""

    def prepare(self) -> None:
        module, name = CLASSES[self.options["model"].partition("-")[0]]
        self.make = getattr(importlib.import_module(module), name)

    def load(self, folder: Path) -> None:
        self.model = self.make.from_directory(folder)

    def answer(self) -> Any:
        """Likeness of two sentences."""
        with self.held():
            if self.replica is not None:
                config, tokenizer = (bytes(self.replica.files[name]).decode() for name in ASIDE)
                self.model = self.make(self.replica.tensors, config, tokenizer)
            one, two = self.model.embed(QUESTION)
            return float(one @ two)
