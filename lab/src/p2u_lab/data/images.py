"""Labelled images, decoded when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError, UsageError
from p2u_lab.base import MissingDataError

Pixels = npt.NDArray[np.uint8]

#: Ends of names of image files, small letters.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class Images:
    """Images of any sizes, and their labels.

    Attributes:
        labels: int64, shape (items,): the class; or (items, classes): 1 present, 0 absent, -1 not
            to be judged (VOC's difficult objects).
        classes: Names.
        read: The image of a number: uint8, shape (height, width) or (height, width, 3).
        source: The file or folder, for messages.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    read: Callable[[int], Pixels]
    source: Path

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Iterable[int], size: int) -> Pixels:
        """Some images as uint8, shape (items, size, size, 3).

        The shorter side is resized to ``size`` (bilinear), then the middle is taken; grey becomes
        three equal channels.
        """
        made = [_square(self.read(int(index)), size) for index in indices]
        if not made:
            return np.zeros((0, size, size, 3), np.uint8)
        return np.stack(made)

    def take(self, indices: npt.NDArray[np.intp]) -> Images:
        """Some of the images."""
        chosen = np.asarray(indices)
        return Images(
            self.labels[chosen], self.classes, lambda n: self.read(int(chosen[n])), self.source
        )


def _square(pixels: Pixels, size: int) -> Pixels:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    if pixels.shape == (size, size, 3):
        return pixels
    image_module = _pillow()
    image = image_module.fromarray(np.ascontiguousarray(pixels))
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), image_module.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), np.uint8)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDataError(
            "Pillow is not installed, which decodes and resizes images",
            hint="pip install pillow",
        ) from error
    module: ModuleType = Image
    return module


def decode(content: bytes, name: str) -> Pixels:
    """The pixels of an image file's bytes, shape (height, width, 3).

    Raises:
        FormatError: They are not an image.
    """
    image_module = _pillow()
    try:
        with image_module.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, image_module.DecompressionBombError) as error:
        raise FormatError(f"not an image: {error}", file=name) from error


def of_array(
    pixels: Pixels, labels: npt.NDArray[np.int64], classes: tuple[str, ...], source: Path
) -> Images:
    """Images that are in memory: uint8, shape (items, height, width[, 3]).

    Raises:
        FormatError: Shapes, dtypes or labels do not fit together.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[3:] not in ((), (3,)):
        raise FormatError(
            f"images of dtype {pixels.dtype} and shape {pixels.shape}; expected uint8, "
            "(items, height, width) with or without 3 channels",
            file=str(source),
        )
    check_labels(labels, len(pixels), len(classes), source)
    return Images(labels, classes, lambda n: pixels[n], source)


def of_files(
    paths: list[Path], labels: npt.NDArray[np.int64], classes: tuple[str, ...], source: Path
) -> Images:
    """Images in files of their own."""

    def read(n: int) -> Pixels:
        return decode(paths[n].read_bytes(), str(paths[n]))

    if labels.ndim == 1:
        check_labels(labels, len(paths), len(classes), source)
    return Images(labels, classes, read, source)


def check_labels(labels: npt.NDArray[np.int64], items: int, classes: int, source: Path) -> None:
    """Raise `FormatError` unless there is one label per item and each is a class."""
    if labels.shape != (items,):
        raise FormatError(f"{items} images, labels of shape {labels.shape}", file=str(source))
    if items and not (labels.min() >= 0 and labels.max() < classes):
        raise FormatError(
            f"labels from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}",
            file=str(source),
        )


def check_split(split: str, allowed: tuple[str, ...], source: str) -> None:
    """Raise `UsageError` unless a data set has a split of that name."""
    if split not in allowed:
        raise UsageError(f"{source} has no split {split!r}", hint=f"use one of {allowed}")
