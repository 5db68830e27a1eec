"""Plain data that all layers share; imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: Bytes per element of the dtypes that safetensors names; others are carried as opaque bytes.
ITEMSIZE: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
}

#: The dtypes that have progressive levels; every other dtype is exact from the base on.
PROGRESSIVE = ("F32", "F16", "BF16")

#: What others quantise to, that floats can be predicted from: elements and bytes of a block.
BLOCKS: dict[str, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "F8_E4M3": (1, 1),
    "F8_E5M2": (1, 1),
}


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """The place of one tensor's bytes in a file.

    Attributes:
        name: Unique within its file; the key within a model directory is ``(file, name)``.
        dtype: safetensors' name of the element type (``"BF16"``); unknown names are opaque.
        shape: Dimensions, outermost (output channel) first.
        file: Path relative to the model directory, ``/``-separated.
        offset: First byte in the file.
        length: Number of bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Check:
    """A checksum that a file keeps of some of its own bytes.

    Attributes:
        kind: ``"crc32"``: that of zip, gzip and PNG.
        start: First byte covered.
        length: Number of bytes covered.
        fields: Offsets of the places that hold it, 4 bytes little-endian each, none of them
            covered by this or another check.
    """

    kind: Literal["crc32"]
    start: int
    length: int
    fields: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """The spans and checksums that a format finds in one file.

    Attributes:
        size: Of the file, bytes.
        spans: Its tensors. Those whose bytes lie in another file of the model name that file.
        checks: Checksums that it keeps of its own bytes.
    """

    size: int
    spans: tuple[TensorSpan, ...]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model directory.

    Attributes:
        path: Relative to the model directory, ``/``-separated.
        size: Bytes.
        spans: The tensors that lie in it, in order of offset; empty for a file that is only
            carried. The bytes between spans (headers, padding) are carried too.
        checks: Checksums that it keeps of its own bytes: they differ from state to state.
    """

    path: str
    size: int
    spans: tuple[TensorSpan, ...] = field(default=())
    checks: tuple[Check, ...] = field(default=())
