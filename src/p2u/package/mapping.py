"""The map between two releases: which bytes of the source correspond to those of the target.

A map names for each tensor and each file of the target one of the source, or none. Element i of a
tensor corresponds to element i of its source, both counted flat, whatever their shapes. Bytes
that no chunk of an update brings are copied from there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2u.errors import FormatError
from p2u.package.geometry import ChunkContent, Span
from p2u.package.layout import Contents, Tensor
from p2u.package.manifest import HINT
from p2u.types import BLOCKS, PROGRESSIVE


@dataclass(frozen=True, slots=True)
class Map:
    """For each tensor and file of the target the number of its source; None for none."""

    tensors: tuple[int | None, ...]
    files: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class CopiedRange:
    """``size`` bytes of a file of the target that are those of a file of the source."""

    file: int
    offset: int
    source_file: int
    source_offset: int
    size: int


def identity(target: Contents) -> Map:
    """The map of a release to one with the same files and tensors."""
    return Map(tuple(range(len(target.tensors))), tuple(range(len(target.files))))


def aligned(target: Contents, source: Contents, found: Map) -> bool:
    """Whether all bytes lie at the same place in both: then files can be changed in place."""
    if found != identity(target) or target.layout != source.layout:
        return False
    sizes = [[(file.path, file.size) for file in model.files] for model in (target, source)]
    return sizes[0] == sizes[1]


def source_bytes(target: Tensor, source: Tensor, first: int, elems: int) -> tuple[int, int] | None:
    """Locate the elements of a source that correspond to some of the target.

    Args:
        target: A tensor.
        source: The one that it is mapped to.
        first: First element of the target.
        elems: Their number.

    Returns:
        Offset in the source tensor and size, in bytes; None if it does not have all of them.
    """
    size, per = source.item, 1
    if target.dtype in PROGRESSIVE and source.dtype in BLOCKS:
        per, size = BLOCKS[source.dtype]
    if first % per or elems % per:
        return None
    begin, length = first // per * size, elems // per * size
    return (begin, length) if begin + length <= source.length else None


def source_spans(
    chunk: ChunkContent, found: Map, target: Contents, source: Contents
) -> list[Span | None]:
    """The span of the source that corresponds to each segment of a chunk; None for nothing."""
    spans: list[Span | None] = []
    for seg in chunk.segments:
        tensor, number = target.tensors[seg.tensor], found.tensors[seg.tensor]
        span = None
        if number is not None:
            t = source.tensors[number]
            part = source_bytes(tensor, t, *tensor.span(seg.first_row, seg.rows))
            if part is not None:
                span = Span(t.file, t.offset + part[0], part[1])
        spans.append(span)
    return spans


def copies(
    covered: Iterable[Span],
    found: Map,
    target: Contents,
    source: Contents,
    key: str,
) -> list[CopiedRange]:
    """The ranges to copy, sorted by file and offset.

    Args:
        covered: All that chunks bring; disjoint.
        found: The map, its numbers checked.
        target: The release that the update leads to.
        source: The one that it begins at.
        key: Of the index, for messages.

    Raises:
        FormatError: A byte comes from nowhere.
    """
    ranges: list[list[tuple[int, int]]] = [[] for _ in target.files]
    for span in covered:
        ranges[span.file].append((span.offset, span.offset + span.size))
    tensors: list[list[int]] = [[] for _ in target.files]
    for number, tensor in enumerate(target.tensors):
        if tensor.length:
            tensors[tensor.file].append(number)
    out = []
    for file, entry in enumerate(target.files):
        for begin, end in _gaps(sorted(ranges[file]), entry.size):
            for start, stop, held in _parts(begin, end, tensors[file], target):
                copy = _copy(file, start, stop, held, found, target, source)
                if copy is None:
                    what = "" if held is None else f" of tensor {target.tensors[held].name!r}"
                    raise FormatError(
                        f"{entry.path}: no chunk brings bytes {start} to {stop}{what[:300]}, and "
                        "there is nothing to copy",
                        file=key,
                        hint=HINT,
                    )
                out.append(copy)
    return out


def cut_copies(ranges: Iterable[CopiedRange], most: int) -> Iterator[CopiedRange]:
    """The same ranges in parts of at most so many bytes."""
    for c in ranges:
        for at in range(0, c.size, most):
            size = min(most, c.size - at)
            yield CopiedRange(c.file, c.offset + at, c.source_file, c.source_offset + at, size)


def _gaps(ranges: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The gaps between these sorted ranges, and before the end."""
    at = 0
    for begin, end in (*ranges, (size, size)):
        if at < begin:
            yield at, begin
        at = end


def _parts(
    begin: int, end: int, tensors: Sequence[int], target: Contents
) -> Iterator[tuple[int, int, int | None]]:
    """A range cut at the bounds of a file's tensors: begin, end, number of the tensor or None."""
    at = bisect_right(tensors, begin, key=lambda n: target.tensors[n].offset) - 1
    for number in tensors[max(at, 0) :]:
        tensor = target.tensors[number]
        stop = min(end, tensor.offset + tensor.length)
        if stop <= begin:
            continue
        if tensor.offset >= end:
            break
        if begin < tensor.offset:
            yield begin, tensor.offset, None
            begin = tensor.offset
        yield begin, stop, number
        begin = stop
    if begin < end:
        yield begin, end, None


def _copy(
    file: int,
    begin: int,
    end: int,
    number: int | None,
    found: Map,
    target: Contents,
    source: Contents,
) -> CopiedRange | None:
    """The source of a part."""
    size = end - begin
    if number is None:
        other = found.files[file]
        if other is None or end > source.files[other].size:
            return None
        return CopiedRange(file, begin, other, begin, size)
    tensor, parent = target.tensors[number], found.tensors[number]
    if parent is None:
        return None
    t = source.tensors[parent]
    at = begin - tensor.offset
    if (t.dtype, t.item) != (tensor.dtype, tensor.item) or at + size > t.length:
        return None
    return CopiedRange(file, begin, t.file, t.offset + at, size)
