"""The tasks that a low-precision model is judged by, each beside the original's own answers.

Models are PyTorch modules whose state dict has the names of the packed ``model.safetensors``.

| task | inputs | judged by |
|---|---|---|
| ``minilm`` | 48 paragraphs of Python's manual | cosine of the embeddings, mean and minimum |
| ``resnet20``, ``resnet56`` | CIFAR-10's test images | accuracy, KL divergence of the answers |
| ``effnet-lite0`` | the same images, enlarged to 224 x 224 | same best of 1000 classes, KL |
"""

from __future__ import annotations

import io
import os
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

from p2u.eval.language.embedding import encoder

#: CIFAR-10's normalisation of the ResNets' authors.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    from PIL import Image

    folder = os.environ.get("P2U_EVAL_DATA")
    if not folder:
        raise SystemExit("set P2U_EVAL_DATA to the folder with cifar10-test.npz")
    data = np.load(Path(folder) / f"cifar10-{part}.npz")
    blob, ends = data["jpeg"].tobytes(), data["offset"]
    # The files are sorted by class.
    chosen = np.random.default_rng(0).permutation(len(ends) - 1)[skip : skip + count]
    decoded = []
    for k in chosen:
        with Image.open(io.BytesIO(blob[ends[k] : ends[k + 1]])) as image:
            decoded.append(np.asarray(image.convert("RGB")))
    pixels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(data["label"][chosen].astype(np.int64))


class Basic(nn.Module):
    """Block of a CIFAR ResNet with parameter-free shortcuts (He et al. 2015, option A)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.pad = stride, (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class ResNet(nn.Module):
    """CIFAR ResNet with ``6 * blocks + 2`` layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inside = 16
        for stage, width in enumerate((16, 32, 64)):
            made = []
            for n in range(blocks):
                made.append(Basic(inside, width, 2 if stage and not n else 1))
                inside = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding: the odd pixel at the end."""
    need = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    return F.pad(x, (need // 2, need - need // 2) * 2)


class MBConv(nn.Module):
    """Inverted residual without squeeze and excitation (EfficientNet-lite)."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, grow: int) -> None:
        super().__init__()
        wide = inside * grow
        if grow > 1:
            self._expand_conv = nn.Conv2d(inside, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, 1e-3)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, 1e-3)
        self._project_conv = nn.Conv2d(wide, outside, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outside, 1e-3)
        self.kernel, self.stride, self.grow = kernel, stride, grow
        self.skip = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.grow > 1 else x
        y = F.relu6(self._bn1(self._depthwise_conv(same(y, self.kernel, self.stride))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 (Tan and Le 2019; lite: TensorFlow's repository), 224 x 224."""

    #: Blocks, kernel, stride, growth, channels.
    STAGES = (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, 1e-3)
        blocks = []
        inside = 32
        for count, kernel, stride, grow, width in self.STAGES:
            for n in range(count):
                blocks.append(MBConv(inside, width, kernel, 1 if n else stride, grow))
                inside = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inside, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, 1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(same(x, 3, 2))))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))


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
    if name.startswith("resnet"):
        module: nn.Module = ResNet((int(name[6:]) - 2) // 6)
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        made = batched(pixels, 250, lambda x: (x / 255 - mean) / std)
    else:
        module = EfficientNetLite0()
        made = batched(
            pixels, 25, lambda x: (F.interpolate(x, (224, 224), mode="bicubic") - 127) / 128
        )
    return Task(name, module.eval(), list(made), labels)


def read(folder: Path) -> dict[str, Any]:
    """The tensors of a model directory."""
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))
