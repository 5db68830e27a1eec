"""Images in folders that are named after their classes: any, ImageNet's, Kaggle's X-rays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from p2u.errors import FormatError
from p2u_lab.base import MissingDataError
from p2u_lab.data.images import SUFFIXES, Images, check_split, of_files
from p2u_lab.places import data_path

XRAY_SOURCE = (
    "https://data.mendeley.com/datasets/rscbjbr9sj (Kermany et al., CC BY 4.0), "
    "on Kaggle: paultimothymooney/chest-xray-pneumonia"
)
IMAGENET_SOURCE = "https://image-net.org (after registration; non-commercial)"


def image_folder(root: Path, source: str = "the publisher of the data set") -> Images:
    """A folder with one folder of images per class, as ``torchvision.datasets.ImageFolder``.

    Classes are numbered in the order of their names. Files with other endings are passed over.

    Args:
        root: The folder.
        source: Where to get it, for the error.

    Raises:
        MissingDataError: It is not there, or has no images in folders.
    """
    classes = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    paths, labels = [], []
    for number, name in enumerate(classes):
        for path in sorted((root / name).rglob("*")):
            # macOS leaves ._x.jpeg files in archives; Kaggle's has some.
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                paths.append(path)
                labels.append(number)
    if not paths:
        raise MissingDataError(
            f"{root} has no folders of images", hint=f"get it from {source} and put it there"
        )
    return of_files(paths, np.array(labels, np.int64), tuple(classes), root)


def chest_xray(split: str, root: Path | None = None) -> Images:
    """Kaggle's layout: ``chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``.

    Raises:
        MissingDataError: It is not there.
        FormatError: It has other classes.
    """
    check_split(split, ("train", "val", "test"), "chest_xray")
    folder = (root or data_path("chest_xray", XRAY_SOURCE)) / split
    images = image_folder(folder, XRAY_SOURCE)
    if images.classes != ("NORMAL", "PNEUMONIA"):
        raise FormatError(
            f"classes {images.classes}, expected NORMAL and PNEUMONIA", file=str(folder)
        )
    return images


def imagenet_val(root: Path | None = None) -> Images:
    """ImageNet's (ILSVRC 2012) 50,000 validation images, classes in the order of their ids.

    Two layouts: ``val/n01440764/*.JPEG``, or all files in ``val/`` with Kaggle's
    ``LOC_val_solution.csv`` next to it. Ids not among the images (a part of the set) are counted
    only if ``LOC_synset_mapping.txt`` lists them.

    Raises:
        MissingDataError: Neither is there.
        FormatError: The CSV file is not of this kind.
    """
    root = root or data_path("imagenet", IMAGENET_SOURCE)
    table = root / "LOC_val_solution.csv"
    if not table.is_file():
        return image_folder(root / "val", IMAGENET_SOURCE)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"ImageId", "PredictionString"} <= set(rows[0]):
        raise FormatError("no columns ImageId and PredictionString", file=str(table))
    paths, ids = [], []
    for row in rows:
        words = (row["PredictionString"] or "").split()
        path = root / "val" / f"{row['ImageId']}.JPEG"
        if not words:
            raise FormatError(f"no class for {row['ImageId']}", file=str(table))
        if path.is_file():
            paths.append(path)
            ids.append(words[0])
    if not paths:
        raise MissingDataError(
            f"{root / 'val'} has none of the images of {table.name}",
            hint=f"get them from {IMAGENET_SOURCE} and put them there",
        )
    mapping = root / "LOC_synset_mapping.txt"
    listed = mapping.read_text(encoding="utf-8").splitlines() if mapping.is_file() else []
    classes = sorted({line.split()[0] for line in listed if line.strip()} | set(ids))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in ids], np.int64)
    return of_files(paths, labels, tuple(classes), root)
