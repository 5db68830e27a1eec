"""CIFAR's Python files without trusting them: a pickle of plain values and arrays, no code.

A pickle names functions to call. Here only three names are known, and they stand for functions of
this module that make arrays of bytes or nothing.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from p2u.errors import FormatError


class _Dtype:
    """Stands for ``numpy.dtype``; only unsigned bytes are known."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1", b"|u1", "|u1"):
            raise pickle.UnpicklingError(f"an array of dtype {code!r}; expected bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: bytes have none."""


class _Array:
    """Stands for an array while it is read: filled by what follows in the pickle."""

    array: np.ndarray[Any, np.dtype[np.uint8]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, str):  # bytes of Python 2, read without an encoding
            content = content.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not of bytes")
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        if math.prod(shape) != len(content):
            raise pickle.UnpicklingError(f"{len(content)} bytes for an array of shape {shape}")
        flat = np.frombuffer(content, np.uint8)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 of Python 3 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "ndarray",  # only ever an argument
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """One of the known names; nothing is imported."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants {module}.{name}") from None


def load_batch(path: Path) -> dict[bytes, Any]:
    """The dictionary of a CIFAR batch, its keys bytes and its arrays uint8.

    Raises:
        FormatError: It is none, or it holds anything but plain values and arrays of bytes.
    """
    try:
        with path.open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
    except (
        pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError,
        TypeError, ValueError, OverflowError, MemoryError, RecursionError,
    ) as error:  # fmt: skip
        raise FormatError(
            f"not a CIFAR batch of plain values and arrays of bytes: {error}", file=str(path)
        ) from error
    if not isinstance(batch, dict):
        raise FormatError(f"a {type(batch).__name__}, expected a dictionary", file=str(path))
    return {
        key.encode("latin1") if isinstance(key, str) else key: (
            value.array if isinstance(value, _Array) else value
        )
        for key, value in batch.items()
    }
