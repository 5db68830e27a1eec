"""NumPy's .npy: the span of one array, as numpy.lib.format writes it (versions 1 to 3).

The header is a Python literal; what NumPy itself writes is recognised, nothing is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2u.errors import FormatError
from p2u.formats.reader import DAMAGED, reading
from p2u.types import Scan, TensorSpan

SUFFIXES: tuple[str, ...] = (".npy",)
MAGIC = b"\x93NUMPY"
#: Bytes of a header's text; NumPy's own limit.
MAX_HEADER = 10_000
#: Bytes that hold any header that is read here.
HEAD = 12 + MAX_HEADER
#: Number of dimensions; NumPy's limit.
MAX_DIMS = 64
MAX_SIZE = 2**63 - 1

# One optional space at each place: repeated ones could be matched in too many ways.
_SHAPE = r"\((?P<shape>(?:[0-9]{1,19}L?, ?)*(?:[0-9]{1,19}L?)?)\)"
_HEADER = re.compile(
    r"\{ ?(?:'descr': ?'(?P<descr>[^'\\]{1,20})',? ?"
    r"|'fortran_order': ?(?P<fortran>True|False),? ?"
    rf"|'shape': ?{_SHAPE},? ?){{3}}\}}"
)
_DESCR = re.compile(r"([<>|])([biufcV])([0-9]{1,2})")

_NAMES = {
    "<f8": "F64",
    "<f4": "F32",
    "<f2": "F16",
    "<i8": "I64",
    "<i4": "I32",
    "<i2": "I16",
    "|i1": "I8",
    "<u8": "U64",
    "<u4": "U32",
    "<u2": "U16",
    "|u1": "U8",
    "|b1": "BOOL",
    "<c8": "C64",
}


@dataclass(frozen=True, slots=True)
class Array:
    """The place of an array's elements in a file.

    Attributes:
        dtype: safetensors' name of the element type, else NumPy's: then it is opaque.
        shape: In the order of memory: reversed for an array in Fortran's order.
        offset: First byte, from the beginning of the magic.
        length: Bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def parse(head: bytes, size: int, file: str) -> Array | None:
    """Read a header.

    Args:
        head: The first ``HEAD`` bytes, or all.
        size: Bytes that there are in all.
        file: For messages.

    Returns:
        None for what is not a plain array: pickled objects, strings, records, or not NumPy's.

    Raises:
        FormatError: There are fewer bytes than the header says.
    """
    if not head.startswith(MAGIC):
        return None
    width = 2 if head[6:7] == b"\1" else 4
    text = 8 + width
    length = int.from_bytes(head[8:text], "little")
    if len(head) < text or text + length > size:
        raise FormatError("the header of an array is cut off", file=file, hint=DAMAGED)
    if head[6] not in (1, 2, 3) or length > MAX_HEADER:
        return None
    header = head[text : text + length].decode("latin-1" if head[6] < 3 else "utf-8", "replace")
    found = _HEADER.fullmatch(header.rstrip())
    if not found or None in found.groupdict().values():
        return None
    kind = _element(found["descr"])
    shape = [int(dim) for dim in re.findall("[0-9]+", found["shape"])]
    # ``(3)`` is no tuple to Python.
    if not kind or len(shape) > MAX_DIMS or (len(shape) == 1 and "," not in found["shape"]):
        return None
    needed = kind[1]
    for dim in shape:
        needed *= dim
        if needed > MAX_SIZE:
            break
    if needed > size - text - length:
        raise FormatError(
            f"an array of shape {str(tuple(shape))[:80]} has {size - text - length} bytes, "
            f"{needed} or more are expected",
            file=file,
            hint=DAMAGED,
        )
    if found["fortran"] == "True":
        shape.reverse()
    return Array(kind[0], tuple(shape), text + length, needed)


def _element(descr: str) -> tuple[str, int] | None:
    """Name and bytes of an element type; None if it is not simple."""
    match = _DESCR.fullmatch(descr)
    if not match:
        return None
    size = int(match[3])
    return (_NAMES.get(descr, descr), size) if 1 <= size <= 16 else None


def matches(file: str, head: bytes) -> bool:
    """Whether a file is an array of NumPy's."""
    return file.endswith(SUFFIXES) and head.startswith(MAGIC)


def scan(path: str, file: str) -> Scan:
    """Find the elements of an array file.

    Returns:
        One tensor, named like the file, or none if its elements are not numbers.

    Raises:
        DiskError: It cannot be read.
        FormatError: It is shorter than its header says.
    """
    with reading(path, file) as reader:
        found = parse(reader.read(0, min(reader.size, HEAD)), reader.size, file)
    if found is None:
        return Scan(reader.size, (), obstacle="its elements are no plain numbers")
    name = file.rpartition("/")[2].removesuffix(".npy")
    span = TensorSpan(name, found.dtype, found.shape, file, found.offset, found.length)
    return Scan(reader.size, (span,))
