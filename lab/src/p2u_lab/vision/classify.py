"""Tasks of image classification: find the items that the model of a folder gets right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from p2u.errors import UnsupportedError
from p2u_lab.base import Scores, Task, Trainable
from p2u_lab.data.images import Images
from p2u_lab.data.voc import average_precision
from p2u_lab.vision import sets, store

if TYPE_CHECKING:
    from torch import nn

BATCH = 100
#: Scoring uses so many threads everywhere: sums depend on it in their last bits. One, because it
#: does not wait for the others where another process has their processor.
THREADS = 1
#: Training images for sensitivity and calibration.
LEARN, LEARN_BATCH = 512, 64


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Torch computes with `THREADS`; afterwards with as many as before.

    On one machine the same folder has the same scores then. Another processor may sum in another
    order: logits differ by about 1e-6 of their size, and an item whose two best classes are that
    close may change sides.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answers(
    module: nn.Module, config: store.Config, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """The model's outputs for pixels (items, size, size, 3): (items, classes)."""
    import torch

    with fixed_threads(), torch.inference_mode():
        parts = [
            module(store.inputs(pixels[at : at + BATCH], config)).numpy()
            for at in range(0, len(pixels), BATCH)
        ]
    return np.concatenate(parts)


def chosen(images: Images, limit: int | None, seed: int = 0) -> Images:
    """So many of the images in a random order that is always the same (files are sorted)."""
    return images.take(np.random.default_rng(seed).permutation(len(images))[:limit])


class Classification(Task):
    """Top-1 accuracy per item, or the average precision per class where items have several.

    Args:
        data: A name of `sets.SETS`.
        limit: The most items to take; all if None. A smaller number takes a part of the same.
        split: ``test``, or ``train`` for a look at how well a training went.
    """

    def __init__(self, data: str, limit: int | None = None, split: str = "test") -> None:
        self.name = data
        self.limit = limit
        self._set = sets.find(data)
        self.metric = "mean average precision" if self._set.several else "accuracy"
        self._split = split
        self._images: Images | None = None
        self._pixels: dict[int, npt.NDArray[np.uint8]] = {}

    def prepare(self) -> None:
        """Find the images; they are decoded when a model asks for its size."""
        self._loaded()

    def _loaded(self) -> Images:
        if self._images is None:
            self._images = chosen(self._set.load(self._split), self.limit)
        return self._images

    def _model(self, folder: Path) -> tuple[nn.Module, store.Config]:
        module, config = store.load(folder)
        if config.classes != self._set.classes:
            raise UnsupportedError(
                f"{self.name} has {self._set.classes} classes, the model {config.classes}",
                file=str(folder),
                hint="Use a model that was trained for this data set",
            )
        return module, config

    def scores(self, folder: Path) -> Scores:
        """Per item 1 or 0, and the mean cross-entropy; or per class the average precision."""
        images = self._loaded()
        module, config = self._model(folder)
        if config.size not in self._pixels:
            self._pixels = {config.size: images.pixels(range(len(images)), config.size)}
        out = answers(module, config, self._pixels[config.size])
        if images.labels.ndim == 2:
            return self._precisions(out, images.labels)
        right = out.argmax(1) == images.labels
        # A model whose weights are ruined may answer NaN: then nothing is right.
        right &= np.isfinite(out).all(1)
        return Scores(right.astype(np.float64), extra={"loss": cross_entropy(out, images.labels)})

    def _precisions(self, out: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Scores:
        out = np.nan_to_num(out, nan=-np.inf)
        values = np.array([
            average_precision(out[:, n], labels[:, n], eleven=self._set.eleven)
            for n in range(out.shape[1])
        ])  # fmt: skip
        return Scores(values[~np.isnan(values)])

    def trainable(self, folder: Path) -> Trainable | None:
        """With images of the training split, as they are."""
        module, config = self._model(folder)
        images = chosen(self._set.load("train"), LEARN, seed=1)
        return learn(module, config, images)


def learn(module: nn.Module, config: store.Config, images: Images) -> Trainable:
    """A model with images as batches of inputs."""
    batches = []
    for at in range(0, len(images), LEARN_BATCH):
        some = range(at, min(at + LEARN_BATCH, len(images)))
        batches.append((store.inputs(images.pixels(some, config.size), config),))
    return Trainable(module, batches, "logits")


def cross_entropy(out: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Mean of ``-log softmax`` of the right class."""
    wide = out.astype(np.float64)
    top = wide.max(1, keepdims=True)
    log = wide - top - np.log(np.exp(wide - top).sum(1, keepdims=True))
    return float(-log[np.arange(len(labels)), labels].mean())
