"""MedMNIST's npz files (Yang et al. 2023): small medical images with a standard split."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from p2u.errors import FormatError
from p2u_lab.data.images import Images, check_split, of_array
from p2u_lab.places import data_path

SPLITS = ("train", "val", "test")

#: Names of the classes of the sets that are used here.
CLASSES = {"pneumoniamnist": ("normal", "pneumonia")}


def medmnist(split: str, name: str = "pneumoniamnist", path: Path | None = None) -> Images:
    """A split of a MedMNIST set with one label per image.

    Args:
        split: ``train``, ``val`` or ``test``.
        name: The set: ``pneumoniamnist``; its file is ``NAME.npz`` in the data folder.
        path: The file, if it is elsewhere (other sizes: ``pneumoniamnist_224.npz``).

    Raises:
        MissingDataError: The file is not there.
        FormatError: It is not of this kind.
    """
    check_split(split, SPLITS, name)
    if path is None:
        path = data_path(f"{name}.npz", f"https://medmnist.com ({name}, CC BY 4.0)")
    try:
        with np.load(path, allow_pickle=False) as data:
            pixels, labels = data[f"{split}_images"], data[f"{split}_labels"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"not a MedMNIST file with {split}_images and {split}_labels: {error}", file=str(path)
        ) from error
    labels = labels.astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise FormatError(
            f"labels of shape {labels.shape}; only sets with one label per image are read",
            file=str(path),
        )
    classes = CLASSES.get(name) or tuple(str(n) for n in range(int(labels.max(initial=0)) + 1))
    return of_array(pixels, labels, classes, path)
