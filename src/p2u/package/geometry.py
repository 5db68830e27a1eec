"""Locate the decoded bytes of a chunk in the files of a release: its rows and pieces, as spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from p2u.package.layout import Layout


@dataclass(frozen=True, slots=True)
class Seg:
    """Rows of one tensor: its number in the layout, the first row, the number of rows."""

    tensor: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file that belong to no tensor; ``file`` is its number in the release."""

    file: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of fetching, checking and decoding.

    Attributes:
        number: Its place in the index.
        blob: Number of its blob in the update.
        start: First byte of the payload in the blob.
        length: Bytes of the payload.
        sha256: Digest of the payload, 32 bytes.
        segments: The rows that it holds; empty if it holds pieces.
        pieces: The pieces that it holds, sorted; empty if it holds rows.
    """

    number: int
    blob: int
    start: int
    length: int
    sha256: bytes
    segments: tuple[Seg, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes of a file: the file's number, offset and size in bytes.

    ``elems`` and ``cols`` are for the core: number of elements, and elements per row.
    """

    file: int
    offset: int
    size: int
    elems: int = 0
    cols: int = 0


class ChunkContent(Protocol):
    """Rows or pieces: a `Chunk`, or one that is to be made."""

    @property
    def segments(self) -> tuple[Seg, ...]:
        """The rows; empty if it holds pieces."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces; empty if it holds rows."""


def segment_span(seg: Seg, layout: Layout) -> Span:
    """The bytes of some rows."""
    t = layout.tensors[seg.tensor]
    first, elems = t.span(seg.first_row, seg.rows)
    return Span(t.file, t.offset + first * t.item, elems * t.item, elems, t.cols)


def chunk_spans(chunk: ChunkContent, layout: Layout) -> list[Span]:
    """A chunk's decoded bytes, in the order of its pieces or segments."""
    spans = [Span(piece.file, piece.offset, piece.size) for piece in chunk.pieces]
    spans += [segment_span(seg, layout) for seg in chunk.segments]
    return spans


def all_spans(chunks: Iterable[ChunkContent], layout: Layout) -> Iterator[Span]:
    """The decoded bytes of all these chunks."""
    for chunk in chunks:
        yield from chunk_spans(chunk, layout)


def span_bytes(chunk: ChunkContent, layout: Layout) -> int:
    """Bytes of all files that a chunk brings."""
    return sum(span.size for span in chunk_spans(chunk, layout))


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
