"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the published binary and Python files, and JPEGs.

The JPEG version (one npz with all files' bytes) is what some mirrors have. It is not the same
images: networks trained on the originals lose ten points on it.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError
from p2u_lab.base import MissingDataError
from p2u_lab.data.images import Images, Pixels, check_labels, check_split, decode, of_array
from p2u_lab.data.pickles import load_batch
from p2u_lab.places import data_dir

SPLITS = ("train", "test")
HOME = "https://www.cs.toronto.edu/~kriz/cifar.html (research use)"
#: Bytes of an image: three planes of 32 x 32.
PLANES = 3 * 32 * 32

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a set's files are and how they are written.

    Attributes:
        binary, python: Folder names of the two versions.
        files: Per split, the names without ``.bin``.
        head: Bytes before each binary image; the last of them is the label.
        key: The labels' key in the Python version.
    """

    binary: str
    python: str
    files: dict[str, tuple[str, ...]]
    head: int
    key: bytes


_CIFAR10 = _Layout(
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
    1,
    b"labels",
)
_CIFAR100 = _Layout(
    "cifar-100-binary", "cifar-100-python", {"train": ("train",), "test": ("test",)}, 2,
    b"fine_labels",
)  # fmt: skip


def cifar10(split: str, folder: Path | None = None) -> Images:
    """CIFAR-10, from whichever version is in the data folder; the originals come first.

    Args:
        split: ``train`` or ``test``.
        folder: Where the version's folder or file is; the data folder if None.

    Raises:
        MissingDataError: None is there.
        FormatError: A file is not of this kind.
    """
    check_split(split, SPLITS, "CIFAR-10")
    root = folder or data_dir()
    found = _published(root, _CIFAR10, split, CIFAR10_CLASSES)
    if found is not None:
        return found
    path = root / f"cifar10-{split}.npz"
    if path.is_file():
        return _jpegs(path)
    raise MissingDataError(
        "CIFAR-10 is missing",
        hint=f"get cifar-10-binary.tar.gz from {HOME} and unpack it, so that there is "
        f"{root / _CIFAR10.binary}",
    )


def cifar100(split: str, folder: Path | None = None) -> Images:
    """CIFAR-100 with its 100 fine classes; see `cifar10`."""
    check_split(split, SPLITS, "CIFAR-100")
    root = folder or data_dir()
    found = _published(root, _CIFAR100, split, tuple(f"class {n}" for n in range(100)))
    if found is not None:
        return found
    raise MissingDataError(
        "CIFAR-100 is missing",
        hint=f"get cifar-100-binary.tar.gz from {HOME} and unpack it, so that there is "
        f"{root / _CIFAR100.binary}",
    )


def _published(root: Path, layout: _Layout, split: str, classes: tuple[str, ...]) -> Images | None:
    """A set in its binary or Python version, or None."""
    for folder, ending, read in (
        (root / layout.binary, ".bin", _binary),
        (root / layout.python, "", _python),
    ):
        if not folder.is_dir():
            continue
        paths = [folder / f"{name}{ending}" for name in layout.files[split]]
        lacking = [path.name for path in paths if not path.is_file()]
        if lacking:
            raise MissingDataError(
                f"{folder} lacks {', '.join(lacking)}", hint=f"unpack it again; get it from {HOME}"
            )
        parts = [read(path, layout) for path in paths]
        pixels = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        # (items, channels, rows, columns) -> channels last
        shaped = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        return of_array(shaped, labels.astype(np.int64), classes, folder)
    return None


def _binary(path: Path, layout: _Layout) -> tuple[Pixels, npt.NDArray[np.int64]]:
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    record = layout.head + PLANES
    if not raw.size or raw.size % record:
        raise FormatError(f"{raw.size} bytes, not a multiple of {record}", file=str(path))
    rows = raw.reshape(-1, record)
    return rows[:, layout.head :], rows[:, layout.head - 1].astype(np.int64)


def _python(path: Path, layout: _Layout) -> tuple[Pixels, npt.NDArray[np.int64]]:
    batch = load_batch(path)
    pixels, labels = batch.get(b"data"), batch.get(layout.key)
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 2
        and pixels.shape[1] == PLANES
        and isinstance(labels, list)
        and len(labels) == len(pixels)
        and all(isinstance(label, int) and 0 <= label < 256 for label in labels)
    ):
        raise FormatError(
            f"no images (items, {PLANES}) of uint8 with as many {layout.key.decode()}",
            file=str(path),
        )
    return pixels, np.array(labels, np.int64)


def _jpegs(path: Path) -> Images:
    """An npz of ``jpeg`` (all files' bytes joined), ``offset`` (items + 1), ``label``."""
    try:
        with np.load(path, allow_pickle=False) as data:
            blob, offsets = data["jpeg"], data["offset"].astype(np.int64)
            labels = data["label"].astype(np.int64)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"no jpeg, offset and label: {error}", file=str(path)) from error
    check_labels(labels, len(offsets) - 1, len(CIFAR10_CLASSES), path)
    if blob.dtype != np.uint8 or blob.ndim != 1 or (np.diff(offsets, prepend=0) < 0).any():
        raise FormatError("the JPEG files are not joined as they should be", file=str(path))
    if offsets[-1] > blob.size:
        raise FormatError(f"{blob.size} bytes, but offsets to {offsets[-1]}", file=str(path))

    def read(n: int) -> Pixels:
        return decode(blob[offsets[n] : offsets[n + 1]].tobytes(), f"{path}: image {n}")

    return Images(labels, CIFAR10_CLASSES, read, path)
