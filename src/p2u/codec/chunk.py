"""One chunk: previous bytes and payload in, next bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2u.codec import core
from p2u.errors import FormatError
from p2u.package.geometry import Chunk, Span
from p2u.package.index import decode_pieces
from p2u.package.layout import Layout

#: Kinds of chunks that need no previous bytes, and the one that needs those of its own state.
FRESH = frozenset({0, 1, 3})
_REFINE = 2


def check_kind(chunk: Chunk, payload: memoryview, key: str, *, begins: bool, crosses: bool) -> None:
    """Raise FormatError if an update cannot have such a chunk.

    Args:
        chunk: One of the update.
        payload: Its bytes.
        key: Of the blob, for messages.
        begins: The update begins at nothing.
        crosses: It leads from one release to another.
    """
    if chunk.pieces or payload[0] in FRESH:
        return
    if begins or (crosses and payload[0] == _REFINE):
        raise FormatError(
            f"chunk {chunk.number} is of kind {payload[0]}, which needs previous bytes that the "
            "update does not have",
            file=key,
            hint="The package was made by a faulty program; pack the model again",
        )


def decode(
    chunk: Chunk,
    payload: memoryview,
    layout: Layout,
    spans: Sequence[Span],
    buffers: Sequence[Any],
    key: str,
    sources: Sequence[Any] | None = None,
) -> None:
    """Apply a chunk in place.

    Args:
        chunk: One of an update.
        payload: Its bytes, hash checked.
        layout: The target's.
        spans: ``chunk_spans`` of it.
        buffers: One writable buffer per span with the previous state's bytes; any content if the
            update begins at nothing, and if the chunk holds pieces.
        key: Of the blob, for messages.
        sources: One buffer per segment with what corresponds to it in another release; None, for
            one or all: these bytes are in ``buffers``.

    Raises:
        FormatError: The payload is malformed; the buffers' content is undefined then.
    """
    if chunk.pieces:
        data = memoryview(decode_pieces(payload, chunk.pieces, key))
        at = 0
        for buffer, span in zip(buffers, spans, strict=True):
            buffer[:] = data[at : at + span.size]
            at += span.size
        return
    tensor = layout.tensors[chunk.segments[0].tensor]
    segments = [
        core.Segment(buffer, span.elems, span.cols)
        for buffer, span in zip(buffers, spans, strict=True)
    ]
    try:
        core.apply(payload, tensor.dtype, tensor.item, segments, sources=sources)
    except FormatError as error:
        raise FormatError(
            f"chunk {chunk.number}: {error.message}",
            file=key,
            tensor=tensor.name,
            hint="The package was made by a faulty program; pack the model again",
        ) from None
