"""The contract of the parts: models are folders, methods make folders, tasks score them.

A *model* is a folder of files as its publisher has them. A *method* (P2U, a quantiser, a codec)
says for each of its *points* how many bytes are transmitted, and writes the folder that the
receiver then has, with files of the same names, formats and dtypes. A *task* scores such a folder
on labelled items. So every method works with every task, and none sees more than its files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2u.errors import P2UError

if TYPE_CHECKING:
    import torch

#: Told what is being done, and how far: ``(text, done, total)``; total 0 means unknown.
Report = Callable[[str, int, int], None]


class MissingDataError(P2UError):
    """Data or weights are not here; the hint says where to get them and where to put them."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a model did on each item, in the order of the items.

    Attributes:
        values: float64, shape (items,); 1 is right and 0 is wrong, or a number in between.
        weights: float64, shape (items,); what each item counts (words of a sentence). All alike
            if None.
        extra: More numbers about the whole, by name (perplexity, mean cosine).
    """

    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64] | None = None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The task's one number: the weighted mean of the values."""
        return float(np.average(self.values, weights=self.weights))


@dataclass(frozen=True, slots=True)
class Trainable:
    """A module for sensitivity and calibration, with inputs that are not among the test items.

    Attributes:
        module: In evaluation mode; its state dict has the names of the folder's tensors.
        batches: Inputs as ``p2u.torch.sensitivity`` and ``p2u.torch.calibrate`` take them.
        output: ``"logits"`` or ``"values"``, as for ``p2u.torch.sensitivity``.
    """

    module: torch.nn.Module
    batches: Sequence[Any]
    output: str


class Task(ABC):
    """Labelled items and a way to score a model folder on them.

    Attributes:
        name: Short, for tables and file names: ``"cifar10"``.
        metric: What `Scores.mean` is: ``"accuracy"``, ``"recall@1"``, ``"1 - WER"``.
        version: Goes up when scores would change; part of the cache's key.
    """

    name: str
    metric: str
    version: int = 1

    @abstractmethod
    def prepare(self) -> None:
        """Load the items.

        Raises:
            MissingDataError: They are not here.
        """

    @abstractmethod
    def scores(self, folder: Path) -> Scores:
        """Score the model in a folder; deterministic."""

    def trainable(self, folder: Path) -> Trainable | None:
        """For methods that want to know the model; None if the task has no such thing."""
        return None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be evaluated.

    Attributes:
        name: Short: ``"resnet20"``.
        folder: Makes or finds the folder (trained weights are cached); may take minutes.
        tasks: Names of the tasks that it is for.
        source: Where its weights come from, for the report.
    """

    name: str
    folder: Callable[[Report], Path]
    tasks: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Point:
    """What a receiver has after some bytes.

    Attributes:
        method: ``"p2u"``, ``"minmax-tensor"``, ``"plain"``...
        state: What of it: ``"base"``, ``"8bit"``, ``"exact"``, ``"4bit"``...
        bits: Nominal bits per weight that were asked for; None where that means nothing.
        bytes: Transmitted in all, from nothing to this point.
        folder: The files then.
        exact: Whether they are the publisher's, byte for byte.
    """

    method: str
    state: str
    bits: float | None
    bytes: int
    folder: Path
    exact: bool = False


class Method(ABC):
    """A way to transmit a model.

    Attributes:
        name: For tables.
        version: Goes up when points would change; part of the cache's key.
    """

    name: str
    version: int = 1

    @abstractmethod
    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        """The points of a model, in the order in which a receiver comes by them, per bits.

        Args:
            model: The publisher's folder; not to be written to.
            work: An empty folder for this call; it goes afterwards, so a point's folder is only
                valid until the next one is asked for.
            bits: Wanted; methods without a choice ignore it.
            trainable: See `Task.trainable`.

        Raises:
            UnsupportedError: This method cannot transmit this model.
            MissingDataError: A library that it needs is not installed.
        """
