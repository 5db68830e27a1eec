"""The tasks that a low-precision model is judged by, each compared with the original's own answers.

Models are PyTorch modules whose state dict has the names of the packed ``model.safetensors``.

| task | inputs | judged by |
|---|---|---|
| ``minilm`` | 48 paragraphs of Python's manual | cosine of the embeddings, mean and minimum |
| ``resnet20``, ``resnet56`` | CIFAR-10's test images | accuracy, KL divergence of the answers |
| ``effnet-lite0`` | the same images, enlarged to 224 x 224 | same best of 1000 classes, KL |
"""

from __future__ import annotations

import pydoc_data.topics
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import cache_dir
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from p2u_lab.data.cifar import cifar10
from p2u_lab.language.embedding import encoder
from p2u_lab.vision.nets import NETS
from p2u_lab.vision.store import GIVEN


def texts(count: int = 48, skip: int = 0) -> list[str]:
    """Paragraphs of prose of Python's own manual, one of each topic, then a second one of each."""
    found = []
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        good = []
        for paragraph in re.split(r"\n\s*\n", topic):
            words = paragraph.split()
            if 20 <= len(words) <= 80 and paragraph.strip().endswith("."):
                good.append(" ".join(words))
        found.append(good)
    rounds = max(map(len, found))
    every = [good[n] for n in range(rounds) for good in found if n < len(good)]
    return every[skip : skip + count]


def images(count: int, skip: int = 0, part: str = "test") -> tuple[Tensor, Tensor]:
    """CIFAR-10: ``count`` uint8 images of shape (3, 32, 32), and their labels (int64), shuffled."""
    found = cifar10(part)
    # The files are sorted by class.
    order = np.random.default_rng(0).permutation(len(found))[skip : skip + count]
    pixels = torch.from_numpy(found.pixels(order, 32)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(found.labels[order])


@dataclass
class Task:
    """A model with inputs and the original's answers to them."""

    name: str
    module: nn.Module
    batches: list[tuple[Tensor, ...]]
    labels: Tensor | None
    reference: Tensor | None = None

    def load(self, weights: dict[str, Tensor]) -> None:
        """Put weights into the model: of any float dtype, names as in the file."""
        state = {name: value.float() for name, value in weights.items()
                 if value.is_floating_point()}  # fmt: skip
        lacking, unknown = self.module.load_state_dict(state, strict=False)
        assert not unknown, unknown
        assert all(n.endswith(("num_batches_tracked", "position_ids")) for n in lacking), lacking

    @torch.inference_mode()
    def answers(self) -> Tensor:
        """The outputs of all inputs."""
        return torch.cat([self.module(*batch) for batch in self.batches])

    def judge(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """What these weights are worth; the first call is to bring the original's."""
        self.load(weights)
        out = self.answers()
        if self.reference is None:
            self.reference = out
        if self.labels is None:
            cosine = (out * self.reference).sum(1)
            return {"mean": float(cosine.mean()), "min": float(cosine.min())}
        log, own = out.log_softmax(1), self.reference.log_softmax(1)
        kl = float((own.exp() * (own - log)).sum(1).mean())
        same = float((out.argmax(1) == self.reference.argmax(1)).float().mean())
        worth = {"kl": kl, "same": same}
        if len(out[0]) == 10:  # the labels' own classes
            worth["accuracy"] = float((out.argmax(1) == self.labels).float().mean())
        return worth


def batched(x: Tensor, size: int, prepare: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor]]:
    """Batches of prepared images."""
    for at in range(0, len(x), size):
        yield (prepare(x[at : at + size].float()),)


def task(name: str, count: int, skip: int = 0, part: str = "test") -> Task:
    """A task by its model's name.

    Args:
        name: ``minilm``, ``resnet20``, ``resnet56`` or ``effnet-lite0``.
        count: Texts or images.
        skip: How many to pass over first.
        part: ``test`` or ``train``, of images.
    """
    if name == "minilm":
        from tokenizers import Tokenizer

        folder = cache_dir() / "minilm-fp32"
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(128)
        tokenizer.enable_padding()
        batches: list[tuple[Tensor, ...]] = []
        words = texts(count, skip)
        for at in range(0, len(words), 16):
            coded = tokenizer.encode_batch(words[at : at + 16])
            batches.append(
                (torch.tensor([c.ids for c in coded]),
                 torch.tensor([c.attention_mask for c in coded]))
            )  # fmt: skip
        return Task(name, encoder(folder), batches, None)
    pixels, labels = images(count, skip, part)
    module = NETS[name].build(GIVEN[name].classes, GIVEN[name].size)
    if name.startswith("resnet"):
        config = GIVEN[name]
        mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
        made = batched(pixels, 250, lambda x: (x / 255 - mean) / std)
    else:
        made = batched(
            pixels, 25, lambda x: (F.interpolate(x, (224, 224), mode="bicubic") - 127) / 128
        )
    return Task(name, module.eval(), list(made), labels)


def read(folder: Path) -> dict[str, Any]:
    """The tensors of a model directory."""
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))
