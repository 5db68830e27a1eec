"""A linear probe on a network trained on ImageNet, which is not here to be judged on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2u.errors import UnsupportedError
from p2u_lab.base import Scores, Task, Trainable
from p2u_lab.data.cifar import cifar10
from p2u_lab.data.images import Images
from p2u_lab.places import cache_dir
from p2u_lab.vision import store
from p2u_lab.vision.classify import LEARN, answers, chosen, learn

ORIGINAL = "effnet-lite0"
#: Images that the probe is fitted to, and the most that are scored.
FIT, SCORED = 4000, 2000
#: Of the squared weights, compared with ``FIT`` squared errors of logits scaled to variance 1.
PENALTY = 100.0


class ImageNetProbe(Task):
    """CIFAR-10's classes by a linear map of EfficientNet-lite0's 1000 logits.

    The probe is fitted once to the *original's* logits of training images and kept, so a receiver
    of a less precise model is judged with what was made for the original. It reads logits, not
    the features before them, so that all weights that are transmitted count.

    Args:
        limit: Test images; 2000 if None.
    """

    name = "imagenet-probe"
    metric = "accuracy"

    def __init__(self, limit: int | None = None) -> None:
        self.limit = min(limit or SCORED, SCORED)
        self._test: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None = None
        self._original: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]] | None = None

    def prepare(self) -> None:
        """Decode and enlarge the test images."""
        self._items()

    def _items(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        if self._test is None:
            images = chosen(cifar10("test"), self.limit)
            size = store.GIVEN[ORIGINAL].size
            self._test = images.pixels(range(len(images)), size), images.labels
        return self._test

    def scores(self, folder: Path) -> Scores:
        """1 where the probe is right; ``same best`` is how often ImageNet's best class stays."""
        module, config = store.load(folder)
        if config.model_type != ORIGINAL:
            raise UnsupportedError(
                f"{self.name} has no probe for a {config.model_type}", file=str(folder)
            )
        pixels, labels = self._items()
        out = answers(module, config, pixels)
        probe, best = self._fitted()
        right = (np.nan_to_num(_design(out)) @ probe).argmax(1) == labels
        right &= np.isfinite(out).all(1)
        same = float((out.argmax(1) == best[: len(out)]).mean())
        return Scores(right.astype(np.float64), extra={"same best": same})

    def trainable(self, folder: Path) -> Trainable | None:
        """With training images that the probe was not fitted to."""
        module, config = store.load(folder)
        images = cifar10("train")
        order = np.random.default_rng(0).permutation(len(images))
        return learn(module, config, images.take(order[FIT : FIT + LEARN]))

    def _fitted(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The probe, (1001, 10), and the original's best class of each test image."""
        if self._original is not None:
            return self._original
        from p2u_lab import weights

        train = chosen(cifar10("train"), FIT)
        kind = "jpeg" if train.source.suffix == ".npz" else "png"
        path = cache_dir("probes") / f"{self.name}-{ORIGINAL}-{kind}-{self.version}.npz"
        if not path.is_file():
            module, config = store.load(weights.ensure(ORIGINAL, ("fp32",))["fp32"])
            every = chosen(cifar10("test"), SCORED)

            def logits(images: Images) -> npt.NDArray[np.float32]:
                return answers(module, config, images.pixels(range(len(images)), config.size))

            probe = fitted(logits(train), train.labels, 10)
            part = path.with_name(f".{path.stem}-{os.getpid()}.npz")
            np.savez(part, probe=probe, best=logits(every).argmax(1))
            part.replace(path)
        with np.load(path, allow_pickle=False) as data:
            self._original = data["probe"], data["best"]
        return self._original


def _design(out: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Logits without their mean over the classes, which says nothing, and a column of ones."""
    wide = out.astype(np.float64)
    return np.column_stack([wide - wide.mean(1, keepdims=True), np.ones(len(out))])


def fitted(
    out: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float64]:
    """Ridge regression of the classes' indicators: no random start, no steps to choose.

    Args:
        out: (items, n).
        labels: (items,).
        classes: How many.

    Returns:
        (n + 1, classes), the constants last.
    """
    design = _design(out)
    penalty = np.full(design.shape[1], PENALTY * float(design[:, :-1].var()))
    penalty[-1] = 1e-9
    goals = np.eye(classes)[labels]
    solved = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ goals)
    return solved.astype(np.float64)
