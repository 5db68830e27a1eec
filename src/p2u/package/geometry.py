"""Locate the decoded bytes of a chunk in the files of a release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from p2u.package.index import Chunk
from p2u.package.layout import Layout, ReleaseLayout
from p2u.package.mapping import Map, source_bytes


@dataclass(frozen=True, slots=True)
class Span:
    """A run of a chunk's decoded bytes: file number, offset and size in bytes.

    ``elems`` and ``cols`` are for the core: number of elements, and elements per row.
    """

    file: int
    offset: int
    size: int
    elems: int = 0
    cols: int = 0


def chunk_spans(chunk: Chunk, layout: Layout) -> list[Span]:
    """The places of a chunk's decoded bytes, in the order of its pieces or segments."""
    spans = [Span(piece.file, piece.offset, piece.size) for piece in chunk.pieces]
    for seg in chunk.segments:
        t = layout.tensors[seg.tensor]
        first, elems = t.span(seg.first_row, seg.rows)
        spans.append(Span(t.file, t.offset + first * t.item, elems * t.item, elems, t.cols))
    return spans


def source_spans(
    chunk: Chunk, found: Map, target: ReleaseLayout, source: ReleaseLayout
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


class Countdown:
    """Counts the missing bytes of each file, so that it is checked as soon as it is complete.

    Args:
        layout: The tensors.
        chunks: Those missing.
    """

    def __init__(self, layout: Layout, chunks: Iterable[Chunk] = ()) -> None:
        self._layout = layout
        self._lock = Lock()
        self._left = Counter(file for chunk in chunks for file in self._files(chunk))

    def _files(self, chunk: Chunk) -> set[int]:
        return {span.file for span in chunk_spans(chunk, self._layout)}

    def done(self, chunk: Chunk) -> list[int]:
        """A chunk is there; returns the files that are complete with it. In any thread."""
        complete = []
        with self._lock:
            for file in self._files(chunk):
                self._left[file] -= 1
                if not self._left[file]:
                    complete.append(file)
        return complete
