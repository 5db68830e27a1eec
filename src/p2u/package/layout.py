"""The layout, ``layout.json.zst``: a release's tensors, and how their elements form rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from p2u.errors import FormatError
from p2u.package.manifest import HINT, LAYOUT_KEY, MAX_LAYOUT, MAX_SIZE, FileEntry, Release
from p2u.package.strict_json import MAX_NODES, is_int, is_text, parse_object
from p2u.types import ITEMSIZE

#: Most elements a row, and a chunk, may have.
MAX_ELEMENTS = 1 << 24
#: Most bytes of one opaque element.
MAX_ITEM = 16
MAX_DTYPE = 64
MAX_DIMS = 1 << 10

#: Bytes of text, and values in it, that a layout may have whatever its size, and for each byte of
#: its zstd frame. Real layouts have a tenth of that; a frame of 1 kB could hold 256 MiB.
LEAST, BYTES_PER_BYTE = 1 << 20, 1000
LEAST_NODES, NODES_PER_BYTE = 1 << 16, 100

#: Of zstd; the layout is small compared with the weights and read once.
LEVEL = 19


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        name: Unique within its file.
        dtype: safetensors' name of the element type.
        shape: Dimensions; agrees with ``length`` for the dtypes of ``types.ITEMSIZE``.
        file: Number of its file in the manifest.
        offset: First byte in the file.
        length: Bytes, a multiple of ``item``.
        cols: Elements per row; the last row may be shorter.
        item: Bytes per element; 1 where the elements' size is unknown or below a byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    length: int
    cols: int
    item: int

    @property
    def elems(self) -> int:
        """Number of elements."""
        return self.length // self.item

    @property
    def rows(self) -> int:
        """Number of rows."""
        return -(-self.elems // self.cols)

    def span(self, first_row: int, rows: int) -> tuple[int, int]:
        """First element and number of elements of some rows."""
        first = first_row * self.cols
        return first, min(rows * self.cols, self.elems - first)


@dataclass(frozen=True, slots=True)
class Layout:
    """All tensors of all files, sorted by file, offset and length."""

    tensors: tuple[Tensor, ...]

    def to_bytes(self) -> bytes:
        """The compressed layout; the same bytes for the same version of zstd."""
        import zstandard

        tree = {
            "tensors": [
                [t.name, t.dtype, list(t.shape), t.file, t.offset, t.length, t.cols, t.item]
                for t in self.tensors
            ]
        }
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
        return zstandard.ZstdCompressor(level=LEVEL).compress(text.encode())


class SizedFile(Protocol):
    """A file of a release or of a model at hand."""

    @property
    def path(self) -> str:
        """Its path in the model."""

    @property
    def size(self) -> int:
        """Its bytes."""


class Contents(Protocol):
    """Files and the tensors in them, of a release or of a model at hand."""

    @property
    def files(self) -> Sequence[SizedFile]:
        """All files."""

    @property
    def layout(self) -> Layout:
        """All tensors."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the layout."""


@dataclass(frozen=True, slots=True)
class ReleaseLayout:
    """The files and the tensors of a release."""

    release: Release
    layout: Layout

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files of the release."""
        return self.release.files

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the layout."""
        return self.layout.tensors


def decompress(frame: bytes | memoryview, most: int, file: str) -> bytes:
    """Decompress one zstd frame of unknown origin.

    Args:
        frame: Exactly one frame, which states the size of its content.
        most: Largest size to accept, bytes.
        file: For messages.

    Raises:
        FormatError: It is anything else.
    """
    import zstandard

    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= most:
            raise FormatError(
                f"a compressed part states a size of {size} bytes, at most {most} are allowed",
                file=file,
                hint=HINT,
            )
        data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(
            f"a compressed part is malformed: {error}", file=file, hint=HINT
        ) from None
    if len(data) != size:
        raise FormatError(
            f"a compressed part has {len(data)} bytes, {size} expected", file=file, hint=HINT
        )
    return data


def parse_layout(data: bytes, release: Release) -> Layout:
    """Decompress, parse and validate the layout.

    Args:
        data: The object ``release.layout``, its digest checked by the caller.
        release: For the sizes of the files.

    Raises:
        FormatError: It is malformed or does not fit the files.
    """
    text = decompress(data, min(MAX_LAYOUT, max(LEAST, BYTES_PER_BYTE * len(data))), LAYOUT_KEY)
    nodes = min(MAX_NODES, max(LEAST_NODES, NODES_PER_BYTE * len(data)))
    tree = parse_object(text, file=LAYOUT_KEY, hint=HINT, nodes=nodes)
    entries = tree.get("tensors")
    if not isinstance(entries, list):
        raise FormatError("expected a list of tensors", file=LAYOUT_KEY, hint=HINT)
    tensors = tuple(_tensor(entry, release.files) for entry in entries)
    last = (0, 0, 0)
    names = set()
    for t in tensors:
        # Sorted, so that one look back finds every overlap.
        if (t.file, t.offset, t.length) < last or (t.file == last[0] and t.offset < sum(last[1:])):
            raise _wrong(t.name, "it overlaps another tensor or is out of order")
        last = (t.file, t.offset, t.length)
        if (t.file, t.name) in names:
            raise _wrong(t.name, "its name appears twice in one file")
        names.add((t.file, t.name))
    return Layout(tensors)


def _wrong(name: str, message: str) -> FormatError:
    return FormatError(message, file=LAYOUT_KEY, tensor=name[:200], hint=HINT)


def _tensor(entry: Any, files: Sequence[FileEntry]) -> Tensor:
    if not isinstance(entry, list) or len(entry) != 8 or not is_text(entry[0]):
        raise FormatError(
            f"expected 8 values for each tensor, found {repr(entry)[:80]}",
            file=LAYOUT_KEY,
            hint=HINT,
        )
    name, dtype, shape, file, offset, length, cols, item = entry
    if not is_text(dtype) or not 1 <= len(dtype) <= MAX_DTYPE:
        raise _wrong(name, f"dtype must be a short string, not {repr(dtype)[:80]}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(is_int(d, 0, 2**64 - 1) for d in shape)
    ):
        raise _wrong(name, f"shape must be a list of sizes, not {repr(shape)[:80]}")
    if not is_int(file, 0, len(files) - 1):
        raise _wrong(name, f"it lies in file {repr(file)[:40]} of {len(files)}")
    if not is_int(offset, 0, MAX_SIZE) or not is_int(length, 0, MAX_SIZE):
        raise _wrong(name, "offset and length must be sizes")
    size = files[file].size
    if offset + length > size:
        raise _wrong(name, f"it ends at byte {offset + length}, but its file has {size}")
    if not is_int(cols, 1, MAX_ELEMENTS):
        raise _wrong(name, f"the elements per row must be 1 to {MAX_ELEMENTS}")
    if not is_int(item, 1, MAX_ITEM) or length % item or ITEMSIZE.get(dtype, item) != item:
        raise _wrong(name, f"{length} bytes of {dtype} in elements of {repr(item)[:40]}")
    if dtype in ITEMSIZE:
        _check_shape(name, shape, length // item)
    return Tensor(name, dtype, tuple(shape), file, offset, length, cols, item)


def _check_shape(name: str, shape: list[int], elems: int) -> None:
    product = 1
    for dim in shape:
        product *= dim
        if product > MAX_SIZE and 0 not in shape:
            break
        product = min(product, 2**64)
    if product != elems:
        raise _wrong(name, f"its shape {str(shape)[:80]} does not have {elems} elements")
