"""safetensors: the spans of one file.

The rules are those of the official library, so that every state made from an accepted file can
be loaded by it. Two are looser, because bytes can be carried without being understood: unknown
dtypes are accepted. Two are stricter: duplicate names are refused, in ``__metadata__`` too.

Layout: 8 bytes little-endian header length, the header (JSON), the tensors' bytes without holes.
"""

from __future__ import annotations

from typing import Any

from p2u.disk.errors import disk_error
from p2u.errors import FormatError
from p2u.formats.reader import DAMAGED, GIT_LFS, open_structure, size_of
from p2u.package.strict_json import is_int, is_text, parse_object
from p2u.types import ITEMSIZE, PACKED, Scan, TensorSpan

SUFFIXES: tuple[str, ...] = (".safetensors",)
#: Bytes; the official library's limit.
MAX_HEADER = 100_000_000
#: Sizes and products of dimensions must fit into 64 bits, as in the official library.
MAX_SIZE = 2**64 - 1

#: Bits per element where known. Elements of less than a byte are packed.
BITS: dict[str, int] = {
    **{dtype: 8 * size for dtype, size in ITEMSIZE.items()},
    **{dtype: 8 * size // elems for dtype, (elems, size) in PACKED.items()},
}


def read_header(path: str, file: str) -> tuple[dict[str, Any], int, int]:
    """Read and parse the header of a safetensors file.

    Args:
        path: Where the file is.
        file: What to call it in messages.

    Returns:
        The header, the file's offset of the first tensor's bytes, and the file's size.

    Raises:
        DiskError: The file cannot be read.
        FormatError: It is too short, or the header is too long or not JSON.
    """
    try:
        with open_structure(path) as stream:
            size = size_of(stream)
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise FormatError(
                    f"a safetensors file has at least 8 bytes, this one {size}",
                    file=file,
                    hint=DAMAGED,
                )
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER:
                raise FormatError(
                    f"not a safetensors file: it states a header of {length} bytes, at most "
                    f"{MAX_HEADER} are allowed",
                    file=file,
                    hint=GIT_LFS if prefix == b"version " else DAMAGED,
                )
            if length > size - 8:
                raise FormatError(
                    f"the header has {length} bytes, but the file ends after {size - 8} of them",
                    file=file,
                    hint=DAMAGED,
                )
            raw = stream.read(length)
    except OSError as error:
        raise disk_error(error, file, "read") from error
    if len(raw) < length:
        raise FormatError("the file became shorter while it was read", file=file, hint=DAMAGED)
    return parse_object(raw, file=file, what="header", hint=DAMAGED), 8 + length, size


def _check_metadata(value: Any, file: str) -> None:
    if value is None:
        return  # the official library takes null for none
    if not isinstance(value, dict) or not all(map(is_text, [*value, *value.values()])):
        raise FormatError(
            "__metadata__ must map strings to strings", file=file, hint="Write the file again"
        )


def _check_length(name: str, dtype: str, shape: list[int], length: int, file: str) -> None:
    """Raise FormatError unless ``shape`` of ``dtype`` takes ``length`` bytes."""
    elements = 1
    for dimension in shape:
        elements *= dimension
        # At once: the product of a million huge dimensions would take minutes to compute.
        if elements > MAX_SIZE:
            raise FormatError(
                "the number of elements does not fit into 64 bits",
                file=file,
                tensor=name,
                hint=DAMAGED,
            )
    bits = BITS.get(dtype)
    if bits is not None and elements * bits != length * 8:
        raise FormatError(
            f"shape {_short(shape)} of {dtype} takes {elements * bits / 8:g} bytes, "
            f"but the header gives it {length}",
            file=file,
            tensor=name,
            hint=DAMAGED,
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _span(name: str, entry: Any, start: int, file: str) -> TensorSpan:
    """One entry of the header as a span.

    Args:
        name: The tensor's name.
        entry: What the header says of it.
        start: The file's offset of the first tensor's bytes.
        file: For the span and for messages.
    """

    def wrong(message: str) -> FormatError:
        return FormatError(message, file=file, tensor=name, hint=DAMAGED)

    if not isinstance(entry, dict):
        raise wrong(f"expected an object with dtype, shape and data_offsets, not {_short(entry)}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not is_text(dtype) or not dtype:
        raise wrong(f"dtype must be a string, not {_short(dtype)}")
    if not isinstance(shape, list) or not all(map(is_int, shape)):
        raise wrong(f"shape must be a list of sizes below 2**64, not {_short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_int, offsets)):
        raise wrong(f"data_offsets must be two offsets below 2**64, not {_short(offsets)}")
    begin, end = offsets
    if begin > end:
        raise wrong(f"it ends at {end}, before it begins at {begin}")
    _check_length(name, dtype, shape, end - begin, file)
    return TensorSpan(name, dtype, tuple(shape), file, start + begin, end - begin)


def matches(file: str, head: bytes) -> bool:
    """Whether a file of this name is a safetensors file; its first bytes (a length) do not tell."""
    return file.endswith(SUFFIXES)


def scan(path: str, file: str) -> Scan:
    """List the tensors of a safetensors file.

    Reads the header only. The spans cover everything behind the header exactly, without holes
    or overlap, and each length fits its shape where the dtype is known.

    Args:
        path: Where the file is.
        file: What the spans and the messages call it.

    Returns:
        Its size, and its spans in order of offset.

    Raises:
        DiskError: The file cannot be read.
        FormatError: It is not a valid safetensors file.
    """
    header, start, size = read_header(path, file)
    _check_metadata(header.pop("__metadata__", None), file)
    spans = []
    for name, entry in header.items():
        if not is_text(name):
            raise FormatError(f"the tensor name {name!r} is not Unicode", file=file, hint=DAMAGED)
        spans.append(_span(name, entry, start, file))
    # An empty tensor lies before the one that begins where it does.
    spans.sort(key=lambda span: (span.offset, span.length))
    covered = start
    for span in spans:
        if span.offset != covered:
            relation = "overlap" if span.offset < covered else "leave a hole"
            raise FormatError(
                f"it begins at byte {span.offset} of the file, where {covered} is expected: "
                f"tensors must not {relation}",
                file=file,
                tensor=span.name,
                hint=DAMAGED,
            )
        covered += span.length
    if covered != size:
        raise FormatError(
            f"the file has {size} bytes, but its header describes {covered}",
            file=file,
            hint=DAMAGED,
        )
    return Scan(size, tuple(spans))
