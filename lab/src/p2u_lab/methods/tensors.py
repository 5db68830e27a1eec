"""The tensors of a model that a method may make coarse, and a folder in which it does.

The rule is P2U's own, so that all methods spend their bits on the same weights: F32, F16 and BF16
tensors of at least two dimensions and 64 elements. Biases, norms, integer tensors and all that lies
between the tensors stay as they are.
"""

from __future__ import annotations

import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from p2u.errors import UnsupportedError
from p2u.formats import scan_model
from p2u.types import PROGRESSIVE, ModelFile, TensorSpan

NUMPY: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
#: Fewest elements of a tensor that P2U makes coarse.
LEAST = 64
#: Elements that are worked on at once, about.
BLOCK = 1 << 22
#: Rows of a block are a multiple of this: then codes of any width end at a byte's end.
ROWS = 64
_PIECE = 1 << 22


class Tensors:
    """The coarse tensors of a model, and the rest of its bytes.

    Args:
        folder: The publisher's.
        wanted: Chooses among the tensors that P2U has levels for; all by default.

    Attributes:
        files: All files of the model.
        coarse: The tensors to be made coarse. One with a weight that is not finite is not.

    Raises:
        UnsupportedError: There is none.
    """

    def __init__(
        self, folder: Path, wanted: Callable[[TensorSpan], bool] = lambda span: True
    ) -> None:
        self._model = scan_model(str(folder))
        self.files: tuple[ModelFile, ...] = self._model.files
        self.coarse = tuple(
            span
            for span in self._model.spans
            if has_levels(span) and wanted(span) and self._finite(span)
        )
        if not self.coarse:
            raise UnsupportedError(
                "it has no tensor that this method can make coarse",
                file=str(folder),
                hint="They are of F32, F16 or BF16 (casts: of F32), with two dimensions or more",
            )

    def path(self, file: str) -> Path:
        """Where a file of the publisher's lies."""
        return Path(self._model.locate(file))

    def shape(self, span: TensorSpan) -> tuple[int, int]:
        """Rows (output channels) and columns."""
        rows = span.shape[0]
        return rows, math.prod(span.shape) // rows

    def blocks(self, span: TensorSpan) -> Iterator[npt.NDArray[np.float32]]:
        """All weights, in blocks of whole rows: shape (rows, cols)."""
        rows, cols = self.shape(span)
        stored = np.memmap(self.path(span.file), np.uint8, "r", span.offset, (span.length,))
        matrix = stored.view(NUMPY[span.dtype]).reshape(rows, cols)
        step = max(BLOCK // cols // ROWS, 1) * ROWS
        for at in range(0, rows, step):
            yield np.ascontiguousarray(matrix[at : at + step].astype(np.float32))

    def rest(self) -> Iterator[bytes]:
        """All bytes that are not of coarse tensors, file by file: headers, biases, vocabularies."""
        for file in self.files:
            spans = sorted((s for s in self.coarse if s.file == file.path), key=lambda s: s.offset)
            with self.path(file.path).open("rb") as stream:
                at = 0
                for begin, end in [
                    *((s.offset, s.offset + s.length) for s in spans),
                    (file.size,) * 2,
                ]:
                    stream.seek(at)
                    while at < begin:
                        piece = stream.read(min(_PIECE, begin - at))
                        if not piece:
                            raise UnsupportedError("it became shorter", file=file.path)
                        at += len(piece)
                        yield piece
                    at = end

    def copy_to(self, folder: Path) -> None:
        """Copy all files of the model."""
        for file in self.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path(file.path), target)

    def _finite(self, span: TensorSpan) -> bool:
        return all(bool(np.isfinite(block).all()) for block in self.blocks(span))


def has_levels(span: TensorSpan) -> bool:
    """Whether P2U makes a tensor coarse in its base."""
    large = len(span.shape) >= 2 and math.prod(span.shape) >= LEAST
    return large and span.dtype in PROGRESSIVE


class Writer:
    """Writes other weights over those of a copied model.

    Args:
        folder: The copy.
        span: The tensor.
    """

    def __init__(self, folder: Path, span: TensorSpan) -> None:
        self._stream = (folder / span.file).open("r+b", buffering=0)
        self._stream.seek(span.offset)
        self._dtype = NUMPY[span.dtype]

    def write(self, weights: npt.NDArray[np.float32]) -> None:
        """Append weights, rounded to the tensor's own type."""
        self._stream.write(weights.astype(self._dtype).tobytes())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def renew_checks(folder: Path, files: tuple[ModelFile, ...]) -> None:
    """Put right the checksums that files keep of their own bytes (zip archives)."""
    for file in files:
        if not file.checks:
            continue
        with (folder / file.path).open("r+b") as stream:
            for check in file.checks:
                stream.seek(check.start)
                left, crc = check.length, 0
                while left and (piece := stream.read(min(_PIECE, left))):
                    crc = zlib.crc32(piece, crc)
                    left -= len(piece)
                for field in check.fields:
                    stream.seek(field)
                    stream.write(crc.to_bytes(4, "little"))
