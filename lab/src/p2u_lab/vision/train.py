"""Training of image classifiers from random weights, with fixed seeds.

AdamW; the learning rate rises for the first tenth of the steps and falls as a cosine to nothing;
images are shifted by up to an eighth of their size and, where classes allow it, mirrored. The
weights of the last step are kept: no look at validation or test images chooses anything.
One thread, so one seed gives the same weights on the same machine with the same torch; elsewhere
they differ in their last bits, hence after some steps visibly. Seeds can be trained side by side.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2u.errors import UsageError
from p2u_lab.base import Report
from p2u_lab.data.images import Images
from p2u_lab.places import cache_dir
from p2u_lab.vision import TRAINED, folder_name, sets, store
from p2u_lab.vision.classify import Classification, fixed_threads
from p2u_lab.vision.nets import NETS
from p2u_lab.weights import place

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Peak learning rates: without batch normalisation, less.
RATES = {"vgg16": 2e-4, "vit": 1e-3}
RATE = 2e-3
BATCH = 32
DECAY = 0.02
#: ``(x / 255 - MEAN) / STD``.
MEAN, STD = 0.5, 0.25


def trained(net: str, data: str, seed: int, report: Report) -> Path:
    """The folder of a trained model; trains it if it is not in the cache."""
    folder = cache_dir("models") / folder_name(net, data, seed)
    return folder if folder.is_dir() else train(net, data, seed, report)


def train(net: str, data: str, seed: int, report: Report, epochs: int | None = None) -> Path:
    """Train a model and put it into the cache, next to a record of how it went.

    Args:
        net: A name of `TRAINED`.
        data: A name of `sets.SETS`.
        seed: Of the weights, the order and the shifts of the images.
        report: Told about the steps.
        epochs: Passes over the training images, if not the set's own number.

    Raises:
        UsageError: No such architecture or data set.
        MissingDataError: The images are not here.
    """
    if net not in TRAINED:
        raise UsageError(f"no architecture {net!r} to train", hint=f"use one of {TRAINED}")
    found = sets.find(data)
    epochs = epochs or found.epochs[net]
    images = found.load("train")
    name = folder_name(net, data, seed)
    size = found.size or NETS[net].size
    config = store.Config(net, found.classes, size, (MEAN,) * 3, (STD,) * 3)
    start = time.perf_counter()
    with _seeded(seed), fixed_threads():
        module = NETS[net].build(found.classes, size)
        _initialise(module)
        losses = _fit(module, config, images, seed, epochs, found.mirrored, name, report)
    took = time.perf_counter() - start
    final = cache_dir("models") / name
    if final.is_dir():  # trained anew
        shutil.rmtree(final)
    with place(final) as out:
        store.save(module, config, out)
    story = {
        "net": net, "data": data, "seed": seed, "epochs": epochs, "batch": BATCH,
        "rate": RATES.get(net, RATE), "decay": DECAY, "mirrored": found.mirrored, "size": size,
        "items": len(images), "seconds": round(took, 1), "loss per epoch": losses,
        "parameters": sum(p.numel() for p in module.parameters()),
    }  # fmt: skip
    for split in ("train", "test"):
        task = Classification(data, limit=2000, split=split)
        story[f"{split} {task.metric}"] = round(task.scores(final).mean, 5)
    text = json.dumps(story, indent=2) + "\n"
    _record_path(name).write_text(text, encoding="utf-8")
    return final


def record(name: str) -> str:
    """How the training of a model went: JSON."""
    return _record_path(name).read_text(encoding="utf-8")


def _record_path(name: str) -> Path:
    return cache_dir("training") / f"{name}.json"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed; afterwards they are as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _initialise(module: nn.Module) -> None:
    """He's initialisation for layers before rectifiers (convolutions and VGG's linear layers)."""
    from torch import nn

    linear_too = not any(isinstance(m, nn.BatchNorm2d | nn.LayerNorm) for m in module.modules())
    for part in module.modules():
        if isinstance(part, nn.Conv2d) or (linear_too and isinstance(part, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _fit(
    module: nn.Module, config: store.Config, images: Images, seed: int, epochs: int, mirror: bool,
    name: str, report: Report,
) -> list[float]:  # fmt: skip
    """Train; the mean loss of each epoch."""
    import torch

    rng = np.random.default_rng(seed)
    peak = RATES.get(config.model_type, RATE)
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak,
    )
    per_epoch = len(images) // BATCH
    total, step = per_epoch * epochs, 0
    means = []
    module.train()
    for _ in range(epochs):
        order = rng.permutation(len(images))
        losses = []
        for at in range(0, per_epoch * BATCH, BATCH):
            chosen = order[at : at + BATCH]
            x, y = _batch(images, chosen, config, rng, mirror)
            for group in optimiser.param_groups:
                group["lr"] = peak * _schedule(step / total)
            optimiser.zero_grad()
            loss = loss_of(module(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            step += 1
            report(f"training {name}", step, total)
        means.append(round(float(np.mean(losses)), 5))
    module.eval()
    return means


def _schedule(done: float) -> float:
    """The learning rate, as a part of its peak, when a part of the steps is done."""
    return done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))


def _batch(
    images: Images, chosen: npt.NDArray[Any], config: store.Config, rng: np.random.Generator,
    mirror: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Inputs and labels, each image shifted (edges repeated) and perhaps mirrored."""
    import torch

    size, most = config.size, config.size // 8
    pixels = images.pixels(chosen, size)
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    shifts = rng.integers(0, 2 * most + 1, (len(chosen), 2))
    flips = rng.random(len(chosen)) < (0.5 if mirror else 0.0)
    for n, ((top, left), flip) in enumerate(zip(shifts, flips, strict=True)):
        moved = padded[n, top : top + size, left : left + size]
        pixels[n] = moved[:, ::-1] if flip else moved
    return store.inputs(pixels, config), torch.from_numpy(images.labels[chosen])


def loss_of(answers: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; per class where labels are (items, classes), without those that are -1."""
    from torch.nn import functional as F  # noqa: N812 - its usual name

    if labels.ndim == 1:
        return F.cross_entropy(answers, labels)
    judged = labels >= 0
    return F.binary_cross_entropy_with_logits(answers[judged], labels[judged].float())
