"""Read the elements of progressive tensors as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_float32(data: bytes | bytearray | memoryview, dtype: str) -> NDArray[np.float32]:
    """The values of little-endian F32, F16 or BF16 elements, each of which float32 can hold."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
