"""Read back: decode what was encoded, and compare it with the original."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2u.codec import core, plain
from p2u.codec.chunk import apply_chunk, core_segments, parts
from p2u.disk.errors import disk_errors
from p2u.disk.files import read_from
from p2u.errors import FormatError, IntegrityError
from p2u.package.geometry import Chunk, Span, chunk_spans
from p2u.package.index import decode_pieces
from p2u.package.layout import Layout
from p2u.package.manifest import Blob
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import BufferPool, Scratch
from p2u.packing.levels.encode import Payload
from p2u.packing.levels.state_hashes import States


def read_back(
    job: Job,
    spans: Sequence[Span],
    payloads: Sequence[Payload],
    data: memoryview,
    buffers: BufferPool,
) -> States:
    """Decode a chunk that was just encoded, while all of it is in the processor's cache.

    Args:
        job: The chunk.
        spans: The places of its bytes.
        payloads: One for each level, or one for all.
        data: The original's bytes.
        buffers: Where memory for the states is taken from.

    Returns:
        The chunk in each state, the last of which is ``data`` itself.

    Raises:
        IntegrityError: The last state is not the original.
    """
    states: list[memoryview] = []
    try:
        if job.pieces:
            found = decode_pieces(payloads[0].data, job.pieces, "payload")
            same = plain.equal(found, data)
        else:
            for payload in payloads:
                states.append(_next(states, len(data), buffers))
                rows = core_segments(parts(states[-1], spans), spans)
                core.apply(payload.data, job.dtype, job.item, rows)
            exact = states.pop()
            same = plain.equal(exact, data)
            buffers.give([exact])
    except FormatError:
        same = False
    if not same:
        raise IntegrityError(
            f"the chunk of {job.size:,} bytes at byte {spans[0].offset:,} does not decode to the "
            "original",
            hint="This is a bug: please report it",
        )
    return (*states, data)


def _next(states: Sequence[memoryview], size: int, buffers: BufferPool) -> memoryview:
    """Memory for the state after these, which begins as the last of them."""
    memory = buffers.take(size)
    if states:
        memory[:] = states[-1]
    return memory


@dataclass(frozen=True, slots=True)
class Made:
    """A chunk that was written: what it holds and where its payloads lie, one per update."""

    job: Job
    chunks: tuple[Chunk, ...]


class LevelChunks:
    """The written chunks of a release's base and refinements.

    Args:
        folder: Where the blobs lie.
        layout: The tensors.
        made: All chunks.
        blobs: Those of each update.
    """

    def __init__(
        self, folder: Path, layout: Layout, made: Sequence[Made], blobs: Sequence[Sequence[Blob]]
    ) -> None:
        self._folder = folder
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
            payload = read_payload(self._folder, blob, chunk, self._written)
            if hashlib.sha256(payload).digest() != chunk.sha256:
                path = str(self._folder / blob.key)
                raise IntegrityError("it is not what was written", file=path)
            state = memoryview(bytearray(states[-1] if states else made.job.size))
            buffers = parts(state, spans)
            apply_chunk(chunk, payload, self._layout, spans, buffers, blob.key)
            states.append(state)
        return tuple(states)


def read_payload(folder: Path, blob: Blob, chunk: Chunk, scratch: Scratch) -> memoryview:
    """Read the payload that was written for a chunk.

    Raises:
        DiskError, IntegrityError: It cannot be read any more.
    """
    path = str(folder / blob.key)
    out = scratch.view(chunk.length)
    with disk_errors(path, "read"):
        count = read_from(path, chunk.start, out)
    if count < chunk.length:
        raise IntegrityError("it is shorter than what was written", file=path)
    return out
