"""Read back: decode what was encoded, and compare it with the original."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from p2u.codec import core, plain
from p2u.codec.chunk import apply_chunk, core_segments, parts
from p2u.errors import FormatError, IntegrityError
from p2u.package.geometry import Chunk, Span, chunk_spans
from p2u.package.index import decode_pieces
from p2u.package.layout import Layout
from p2u.package.manifest import Blob
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import BufferPool, Scratch
from p2u.packing.engines.places import Place
from p2u.packing.levels.state_hashes import States


def decode_states(
    job: Job, spans: Sequence[Span], payloads: Sequence[bytes], buffers: BufferPool
) -> list[memoryview]:
    """Decode all payloads of a chunk but the last.

    Args:
        job: The chunk.
        spans: The places of its bytes.
        payloads: One for each level, or one for all.
        buffers: Where memory for the states is taken from.

    Returns:
        The chunk in each state but the exact one.

    Raises:
        IntegrityError: A payload is malformed.
    """
    states: list[memoryview] = []
    for payload in payloads[:-1]:
        memory = buffers.take(job.size)
        if states:
            memory[:] = states[-1]
        _apply(job, spans, payload, memory)
        states.append(memory)
    return states


def check_exact(
    job: Job, spans: Sequence[Span], payload: bytes, memory: memoryview, original: memoryview
) -> None:
    """Decode the last payload of a chunk, and compare.

    Args:
        job: The chunk.
        spans: The places of its bytes.
        payload: The payload.
        memory: The state before, if there is one; it is overwritten.
        original: The original's bytes.

    Raises:
        IntegrityError: It is not the original.
    """
    _apply(job, spans, payload, memory)
    if not plain.equal(memory, original):
        raise not_original(spans)


def _apply(job: Job, spans: Sequence[Span], payload: bytes, memory: memoryview) -> None:
    try:
        if job.pieces:
            memory[:] = decode_pieces(payload, job.pieces, "payload")
        else:
            rows = core_segments(parts(memory, spans), spans)
            core.apply(payload, job.dtype, job.item, rows)
    except FormatError as error:
        raise not_original(spans) from error


def not_original(spans: Sequence[Span]) -> IntegrityError:
    """The error of a chunk that does not decode to the original."""
    return IntegrityError(
        f"what was encoded of byte {spans[0].offset:,} and after does not decode to the original",
        hint="This is a bug: please report it",
    )


@dataclass(frozen=True, slots=True)
class Made:
    """A chunk that was written: what it holds and where its payloads lie, one per update."""

    job: Job
    chunks: tuple[Chunk, ...]


class LevelChunks:
    """The written chunks of a release's base and refinements.

    Args:
        place: Where the blobs are.
        layout: The tensors.
        made: All chunks.
        blobs: Those of each update.
    """

    def __init__(
        self, place: Place, layout: Layout, made: Sequence[Made], blobs: Sequence[Sequence[Blob]]
    ) -> None:
        self._place = place
        self._layout = layout
        self._made = made
        self._blobs = blobs
        self._written = Scratch()

    def cost(self, number: int) -> int:
        """Memory that decoding a chunk takes, bytes, about."""
        made = self._made[number]
        return made.job.size * len(made.chunks) + sum(chunk.length for chunk in made.chunks)

    def decode(self, number: int) -> States:
        """The bytes of a chunk in all states.

        Raises:
            DiskError, IntegrityError: The blobs are not what was written.
        """
        made = self._made[number]
        spans = chunk_spans(made.job, self._layout)
        states: list[memoryview] = []
        for update, chunk in enumerate(made.chunks):
            blob = self._blobs[update][chunk.blob]
            payload = read_payload(self._place, blob, chunk, self._written)
            if hashlib.sha256(payload).digest() != chunk.sha256:
                name = self._place.describe(blob.key)
                raise IntegrityError("it is not what was written", file=name)
            state = memoryview(bytearray(states[-1] if states else made.job.size))
            buffers = parts(state, spans)
            apply_chunk(chunk, payload, self._layout, spans, buffers, blob.key)
            states.append(state)
        return tuple(states)


def read_payload(place: Place, blob: Blob, chunk: Chunk, scratch: Scratch) -> memoryview:
    """Read the payload that was written for a chunk.

    Raises:
        DiskError, StoreError, IntegrityError: It cannot be read any more.
    """
    out = scratch.view(chunk.length)
    place.read_into(blob.key, blob.size, chunk.start, out)
    return out
