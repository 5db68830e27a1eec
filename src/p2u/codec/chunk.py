"""Apply chunks: previous bytes and payloads in, next bytes out; nothing else decodes chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from p2u.codec import core
from p2u.errors import FormatError
from p2u.package.geometry import Chunk, Span, chunk_spans
from p2u.package.index import decode_pieces
from p2u.package.layout import Contents, Layout
from p2u.package.mapping import Map, source_spans

#: Kinds of chunks that need no previous bytes, and the one that needs those of its own state.
_FRESH = frozenset({0, 1, 3})
_BASE, _REFINE = 1, 2

_FAULTY = "The package was made by a faulty program; pack the model again"

#: Fills one buffer for each span.
Read = Callable[[Sequence[Span], Sequence[memoryview]], None]


@dataclass(frozen=True, slots=True)
class ChunkPayload:
    """A chunk and its bytes.

    Attributes:
        chunk: One of an update.
        payload: Its bytes, hash checked.
        key: Of the blob, for messages.
    """

    chunk: Chunk
    payload: memoryview
    key: str


@dataclass(frozen=True, slots=True)
class UpdateEnds:
    """The releases that an update begins at and leads to.

    Attributes:
        target: The release that it leads to.
        source: The release that it begins at: ``target`` itself if it is a refinement; None if it
            begins at nothing.
        map: Which tensors of the source the target's tensors correspond to.
    """

    target: Contents
    source: Contents | None
    map: Map

    @property
    def crosses(self) -> bool:
        """Whether it leads from one release to another."""
        return self.source is not None and self.source is not self.target


class ChunkDecoding:
    """The decoding of a chunk of files: the previous bytes that it needs, and the result.

    Args:
        chunk: One of the update.
        payload: Its bytes, hash checked.
        ends: The update's releases.
        key: Of the blob, for messages.
        refinements: Chunks of the same rows that refine the result further, in order.

    Attributes:
        spans: The places of the decoded bytes.
        size: Number of the decoded bytes.
        memory: Bytes of memory that `run` takes, at least ``size``.

    Raises:
        FormatError: The chunk needs previous bytes that there are not.
    """

    def __init__(
        self,
        chunk: Chunk,
        payload: memoryview,
        ends: UpdateEnds,
        key: str,
        refinements: Sequence[ChunkPayload] = (),
    ) -> None:
        self._chunk, self._payload, self._ends, self._key = chunk, payload, ends, key
        self._refinements = refinements
        self.spans = chunk_spans(chunk, ends.target.layout)
        self.size = sum(span.size for span in self.spans)
        check_kind(chunk, payload, key, begins=ends.source is None, crosses=ends.crosses)
        for later in refinements:
            check_kind(later.chunk, later.payload, later.key, begins=False, crosses=False)
        self._previous = self._find_previous()
        # Where an element takes as many bytes as before, the core changes it where it is.
        self._apart = self._previous if self._changes_dtype() else []
        self.memory = self.size + sum(span.size for span in self._apart)

    def run(self, memory: memoryview, read: Read) -> list[memoryview]:
        """Decode the chunk, and what refines it.

        Args:
            memory: ``memory`` bytes of any content. The first ``size`` get the result.
            read: Called at most once, with spans of the source's files.

        Returns:
            The decoded bytes of each span, as parts of the memory.

        Raises:
            FormatError: A payload is malformed.
        """
        buffers = parts(memory[: self.size], self.spans)
        sources = parts(memory[self.size :], self._apart) or None
        if self._previous:
            read(self._previous, sources or buffers)
        layout = self._ends.target.layout
        first = ChunkPayload(self._chunk, self._payload, self._key)
        if sources is None:
            apply_chunks([first, *self._refinements], layout, self.spans, buffers)
        else:
            apply_chunk(
                self._chunk, self._payload, layout, self.spans, buffers, self._key, sources=sources
            )
            apply_chunks(self._refinements, layout, self.spans, buffers)
        return buffers

    def _find_previous(self) -> list[Span]:
        """The spans of the previous bytes of the segments; empty if the chunk needs none."""
        chunk, ends = self._chunk, self._ends
        if ends.source is None or chunk.pieces or self._payload[0] in _FRESH:
            return []
        if not ends.crosses:
            return self.spans
        spans = []
        found = source_spans(chunk, ends.map, ends.target, ends.source)
        for span, seg in zip(found, chunk.segments, strict=True):
            if span is None:
                raise FormatError(
                    f"chunk {chunk.number} needs previous bytes of row {seg.first_row}, to which "
                    "nothing corresponds",
                    file=self._key,
                    tensor=ends.target.tensors[seg.tensor].name,
                    hint=_FAULTY,
                )
            spans.append(span)
        return spans

    def _changes_dtype(self) -> bool:
        """Whether the source has some of the chunk's tensors in another dtype."""
        ends = self._ends
        if ends.source is None:
            return False
        for seg in self._chunk.segments:
            tensor, number = ends.target.tensors[seg.tensor], ends.map.tensors[seg.tensor]
            if number is not None:
                t = ends.source.tensors[number]
                if (t.dtype, t.item) != (tensor.dtype, tensor.item):
                    return True
        return False


def check_kind(chunk: Chunk, payload: memoryview, key: str, *, begins: bool, crosses: bool) -> None:
    """Raise FormatError if an update cannot have such a chunk.

    Args:
        chunk: One of the update.
        payload: Its bytes.
        key: Of the blob, for messages.
        begins: The update begins at nothing.
        crosses: It leads from one release to another.
    """
    if chunk.pieces or payload[0] in _FRESH:
        return
    if begins or (crosses and payload[0] == _REFINE):
        raise FormatError(
            f"chunk {chunk.number} is of kind {payload[0]}, which needs previous bytes that the "
            "update does not have",
            file=key,
            hint=_FAULTY,
        )


def apply_chunks(
    chunks: Sequence[ChunkPayload],
    layout: Layout,
    spans: Sequence[Span],
    buffers: Sequence[Any],
) -> None:
    """Apply chunks of the same rows in memory, one after the other.

    Args:
        chunks: In order; the first one may need previous bytes, the others refine.
        layout: The target's.
        spans: ``chunk_spans`` of each of them.
        buffers: As for `apply_chunk`, without sources.

    Raises:
        FormatError: A payload is malformed; the buffers' content is undefined then.
    """
    if _is_straight(chunks):
        dtype = layout.tensors[chunks[0].chunk.segments[0].tensor].dtype
        rows = core_segments(buffers, spans)
        if dtype in core.CODES and core.apply_straight([c.payload for c in chunks], dtype, rows):
            return
    for c in chunks:
        apply_chunk(c.chunk, c.payload, layout, spans, buffers, c.key)


def _is_straight(chunks: Sequence[ChunkPayload]) -> bool:
    """Whether they are a base and refinements."""
    kinds = [_BASE, *[_REFINE] * (len(chunks) - 1)]
    return len(chunks) > 1 and all(
        not c.chunk.pieces and c.payload[0] == kind for c, kind in zip(chunks, kinds, strict=True)
    )


def apply_chunk(
    chunk: Chunk,
    payload: memoryview,
    layout: Layout,
    spans: Sequence[Span],
    buffers: Sequence[Any],
    key: str,
    *,
    sources: Sequence[Any] | None = None,
) -> None:
    """Apply a chunk in memory.

    Args:
        chunk: One of an update.
        payload: Its bytes, hash checked.
        layout: The target's.
        spans: ``chunk_spans`` of it.
        buffers: One writable buffer per span with the previous state's bytes; any content if the
            chunk needs no previous bytes, and if it holds pieces.
        key: Of the blob, for messages.
        sources: One buffer per segment with what corresponds to it in another release; None, for
            one or all: these bytes are in ``buffers``.

    Raises:
        FormatError: The payload is malformed; the buffers' content is undefined then.
    """
    if chunk.pieces:
        data = memoryview(decode_pieces(payload, chunk.pieces, key))
        for buffer, part in zip(buffers, parts(data, spans), strict=True):
            buffer[:] = part
        return
    tensor = layout.tensors[chunk.segments[0].tensor]
    segments = core_segments(buffers, spans)
    try:
        core.apply(payload, tensor.dtype, tensor.item, segments, sources=sources)
    except FormatError as error:
        raise FormatError(
            f"chunk {chunk.number}: {error.message}", file=key, tensor=tensor.name, hint=_FAULTY
        ) from None


def parts(memory: memoryview, spans: Sequence[Span]) -> list[memoryview]:
    """One part of the memory per span, back to back."""
    found = []
    at = 0
    for span in spans:
        found.append(memory[at : at + span.size])
        at += span.size
    return found


def core_segments(buffers: Sequence[Any], spans: Sequence[Span]) -> list[core.Segment]:
    """The rows in these buffers, as the core takes them."""
    return [
        core.Segment(buffer, span.elems, span.cols)
        for buffer, span in zip(buffers, spans, strict=True)
    ]
