"""Fashion-MNIST (Xiao et al. 2017) in MNIST's idx files, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from p2u.errors import FormatError
from p2u_lab.base import MissingDataError
from p2u_lab.data.images import Images, Pixels, check_split, of_array
from p2u_lab.places import data_dir

SPLITS = ("train", "test")
CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
#: Where Debian's package puts it.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
#: More than the largest file of the set when unpacked (47 MB); a guard, not a format.
LIMIT = 1 << 28


def fashion(split: str, folder: Path | None = None) -> Images:
    """A split: 60,000 or 10,000 grey images of 28 x 28 and 10 classes.

    Args:
        split: ``train`` or ``test``.
        folder: Where the idx files are; else ``fashion-mnist`` in the data folder, or Debian's.

    Raises:
        MissingDataError: They are nowhere.
        FormatError: A file is not an idx file of bytes.
    """
    check_split(split, SPLITS, "Fashion-MNIST")
    prefix = "train" if split == "train" else "t10k"
    places = [folder] if folder else [DEBIAN]
    hint = "apt install dataset-fashion-mnist, or put the idx files of "
    hint += "https://github.com/zalandoresearch/fashion-mnist (MIT) into "
    if not folder:
        try:
            places.insert(0, data_dir() / "fashion-mnist")
        except MissingDataError:
            hint += "fashion-mnist/ in the folder of P2U_EVAL_DATA, seen first "
    for place in places:
        images = _file(place, f"{prefix}-images-idx3-ubyte")
        labels = _file(place, f"{prefix}-labels-idx1-ubyte")
        if images and labels:
            pixels = read_idx(images, 3)
            return of_array(pixels, read_idx(labels, 1).astype(np.int64), CLASSES, place)
    raise MissingDataError("Fashion-MNIST is missing", hint=f"{hint}{places[0]}")


def _file(folder: Path, name: str) -> Path | None:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    return found[0] if found else None


def read_idx(path: Path, dimensions: int) -> Pixels:
    """An idx file of unsigned bytes: magic ``00 00 08 dimensions``, sizes (big-endian), bytes.

    Raises:
        FormatError: It is not one with so many dimensions.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"cannot be read: {error}", file=str(path)) from error
    head = 4 + 4 * dimensions
    if len(raw) > LIMIT or len(raw) < head or raw[:4] != bytes((0, 0, 8, dimensions)):
        raise FormatError(f"not an idx file of bytes with {dimensions} dimensions", file=str(path))
    shape = [int(n) for n in np.frombuffer(raw, ">u4", dimensions, 4)]
    if math.prod(shape) != len(raw) - head:
        raise FormatError(f"{len(raw) - head} bytes for shape {tuple(shape)}", file=str(path))
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)
