"""PASCAL VOC's classification task (Everingham et al. 2010), 2007 and 2012."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError, UsageError
from p2u_lab.base import MissingDataError
from p2u_lab.data.images import Images, check_split, of_files
from p2u_lab.places import data_path

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
YEARS = (2007, 2012)
#: The labels of 2012's test images are not public.
SPLITS = ("train", "val", "trainval", "test")
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
#: In the files: 1 present, -1 absent, 0 only objects that are marked difficult. Ours: see `Images`.
MEANING = {"1": 1, "-1": 0, "0": -1}


def voc(year: int, split: str, root: Path | None = None) -> Images:
    """A split with any number of the 20 classes per image.

    Args:
        year: 2007 or 2012.
        split: ``train``, ``val``, ``trainval`` or ``test`` (2012's has no public labels).
        root: The folder with ``ImageSets/Main`` and ``JPEGImages``; else ``VOCdevkit/VOC<year>``
            of the data folder.

    Returns:
        Labels (items, 20): 1 present, 0 absent, -1 difficult, which is not judged.

    Raises:
        MissingDataError: Lists or images are not there.
        FormatError: The lists of the classes do not agree.
    """
    if year not in YEARS:
        raise UsageError(f"VOC {year} is not known", hint=f"use one of {YEARS}")
    check_split(split, SPLITS, f"VOC {year}")
    root = root or data_path(f"VOCdevkit/VOC{year}", f"{SOURCE}voc{year}/")
    lists = [_read(root / "ImageSets" / "Main" / f"{name}_{split}.txt") for name in CLASSES]
    names = list(lists[0])
    for name, entries in zip(CLASSES, lists, strict=True):
        if list(entries) != names:
            raise FormatError(
                f"{name}_{split}.txt has other images than {CLASSES[0]}_{split}.txt", file=str(root)
            )
    paths = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    lacking = [path for path in paths if not path.is_file()]
    if lacking or not paths:
        raise MissingDataError(
            f"{len(lacking)} of {len(paths)} images are missing, first {lacking[:1]}",
            hint=f"get them from {SOURCE}voc{year}/ and put them into {root / 'JPEGImages'}",
        )
    labels = np.array([[entries[name] for entries in lists] for name in names], np.int64)
    return of_files(paths, labels, CLASSES, root)


def _read(path: Path) -> dict[str, int]:
    """Image name -> label of a class's list."""
    if not path.is_file():
        raise MissingDataError(
            f"{path} is missing", hint=f"get it from {SOURCE} (ImageSets/Main) and put it there"
        )
    entries = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in MEANING or "/" in words[0] or words[0] == "..":
            raise FormatError(f"line {number}: {line!r}, expected an image and 1, 0 or -1",
                              file=str(path))  # fmt: skip
        entries[words[0]] = MEANING[words[1]]
    return entries


def average_precision(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], *, eleven: bool = False
) -> float:
    """The average precision of one class, as VOC's development kit computes it.

    Args:
        scores: (items,): how sure the model is.
        labels: (items,): 1 present, 0 absent, -1 left out.
        eleven: The mean at recalls 0, 0.1 ... 1 (VOC 2007) instead of the area (2010 and later).

    Returns:
        From 0 to 1; NaN if the class is nowhere present. Of items with the same score those that
        come first rank first.
    """
    judged = labels >= 0
    order = np.argsort(-scores[judged], kind="stable")
    hits = (labels[judged] == 1)[order]
    if not hits.any():
        return float("nan")
    right = np.cumsum(hits)
    recall, precision = right / right[-1], right / np.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven:
        # The kit compares with recalls that are not exact; a hair keeps 0.3 at 3 of 10.
        return float(np.mean([
            best[recall >= at - 1e-12][0] for at in np.arange(11) / 10
        ]))  # fmt: skip
    return float(np.sum(np.diff(recall, prepend=0.0) * best))


def mean_average_precision(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], *, eleven: bool = False
) -> float:
    """The mean over the classes that are present; arguments have shape (items, classes)."""
    each = [
        average_precision(scores[:, n], labels[:, n], eleven=eleven) for n in range(labels.shape[1])
    ]
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")
