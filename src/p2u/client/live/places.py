"""The places of a release's bytes in the memory of a live model, whose tensors never move.

The memory consists of regions. The first ones are the files of the release that came first, and its
tensors stay there. Another release may have the same tensors elsewhere in its files, and other
bytes between them: those get regions of their own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from p2u.package.geometry import Span
from p2u.package.layout import Contents, ReleaseLayout

#: By region, sorted ranges of bytes ``(start, end)``.
Ranges = dict[int, list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class RegionPart:
    """Bytes of a file that are together in memory.

    Attributes:
        offset: First byte in the file.
        size: Bytes, more than 0.
        region: Number of their region.
        at: First byte in the region.
    """

    offset: int
    size: int
    region: int
    at: int


@dataclass(frozen=True, slots=True)
class Places:
    """The places of all files of a release.

    Attributes:
        files: The parts of each file, in order, without gaps.
        tensors: For each tensor the number of the same one in the release that came first; None
            if that has none.
    """

    files: tuple[tuple[RegionPart, ...], ...]
    tensors: tuple[int | None, ...]

    @property
    def regions(self) -> set[int]:
        """Numbers of the regions in use."""
        return {part.region for parts in self.files for part in parts}

    @property
    def straight(self) -> bool:
        """Whether each file is a region of its own."""
        return all(
            len(parts) < 2 and all((part.region, part.at) == (number, 0) for part in parts)
            for number, parts in enumerate(self.files)
        )

    def find(self, file: int, offset: int, size: int) -> Iterator[Span]:
        """The places of some bytes of a file, in order; ``file`` of each is the region."""
        parts = self.files[file]
        number = bisect_right(parts, offset, key=lambda part: part.offset) - 1
        while size:
            part = parts[number]
            skip = offset - part.offset
            length = min(size, part.size - skip)
            yield Span(part.region, part.at + skip, length)
            offset, size, number = offset + length, size - length, number + 1

    def span(self, span: Span) -> Span:
        """The place of a chunk's rows or piece, which are in one part; ``file`` is the region."""
        (found,) = self.find(span.file, span.offset, span.size)
        return replace(span, file=found.file, offset=found.offset)

    def touched(self, ranges: Ranges) -> set[int]:
        """Numbers of the files that have bytes in some ranges."""
        return {
            number
            for number, parts in enumerate(self.files)
            if any(
                start < part.at + part.size and end > part.at
                for part in parts
                for start, end in ranges.get(part.region, ())
            )
        }


@dataclass(frozen=True, slots=True)
class Placed:
    """A release with its tensors, and the places of its bytes in memory."""

    model: ReleaseLayout
    places: Places


def first_places(model: ReleaseLayout) -> Places:
    """The places of the release that comes first: each file is a region."""
    files = tuple(
        (RegionPart(0, file.size, number, 0),) if file.size else ()
        for number, file in enumerate(model.files)
    )
    return Places(files, tuple(range(len(model.tensors))))


def same_files(old: Contents, new: Contents) -> bool:
    """Whether two releases have the same bytes at the same places."""
    sizes = [[(file.path, file.size) for file in model.files] for model in (old, new)]
    return sizes[0] == sizes[1] and old.layout == new.layout


#: Gives a region for bytes of a file: its number, offset and size. The place may be known already.
Between = Callable[[int, int, int], tuple[int, int]]


def later_places(
    first: ReleaseLayout, model: ReleaseLayout, tensors: Sequence[int | None], between: Between
) -> Places:
    """The places of another release.

    Args:
        first: The release that came first.
        model: The other one.
        tensors: For each of its tensors the number of that in ``first``, if there is one.
        between: Gives a region, and the first byte there, for bytes that belong to no such tensor.
    """
    parts: list[list[RegionPart]] = [[] for _ in model.files]
    ends = [0] * len(model.files)

    def fill(file: int, stop: int) -> None:
        if ends[file] < stop:
            at, size = ends[file], stop - ends[file]
            parts[file].append(RegionPart(at, size, *between(file, at, size)))
            ends[file] = stop

    for tensor, number in zip(model.tensors, tensors, strict=True):
        if not tensor.length or number is None:
            continue
        fill(tensor.file, tensor.offset)
        own = first.tensors[number]
        parts[tensor.file].append(RegionPart(tensor.offset, tensor.length, own.file, own.offset))
        ends[tensor.file] = tensor.offset + tensor.length
    for file, entry in enumerate(model.files):
        fill(file, entry.size)
    return Places(tuple(map(tuple, parts)), tuple(tensors))
