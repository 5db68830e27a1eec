"""The one pass over a chunk: read, encode for all levels, read back, hash every state."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

from p2u.codec import plain
from p2u.codec.chunk import core_segments, parts
from p2u.package.geometry import chunk_spans
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import BufferPool
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.levels.encode import Coded, Encoder
from p2u.packing.levels.read_back import check_exact, decode_states
from p2u.packing.levels.state_hashes import StateHashes, States

#: Bytes of memory that are kept between two chunks.
SPARE = 24 << 20
#: Up to so many threads hash payloads in step with states; more threads would wait for one another,
#: as a file's states are hashed in its order.
IN_STEP = 2


class ChunkPass:
    """Used by many threads at once.

    Args:
        model: The model.
        jobs: Its chunks.
        encoder: Makes payloads.
        checks: The checksums in its files.
        states: In how many states there are files.
        threads: How many threads use it.

    Attributes:
        hashes: The digests of all files.
    """

    def __init__(
        self,
        model: StoredModel,
        jobs: Sequence[Job],
        encoder: Encoder,
        checks: Checks,
        states: int,
        threads: int,
    ) -> None:
        self._model = model
        self._jobs = jobs
        self._encoder = encoder
        self._checks = checks
        self._states = states
        self._in_step = threads <= IN_STEP
        self._buffers = BufferPool(SPARE)
        self._spans = [chunk_spans(job, model.layout) for job in jobs]
        counts = [1] * len(model.files)
        for job, spans in zip(jobs, self._spans, strict=True):
            if job.progressive:
                for span in spans:
                    counts[span.file] = states
        self.hashes = StateHashes(model.files, counts, self._buffers)

    def order(self) -> list[int]:
        """The chunks in the order of their first bytes in the files: none waits to be hashed."""
        first = [min((span.file, span.offset) for span in spans) for spans in self._spans]
        return sorted(range(len(first)), key=first.__getitem__)

    def cost(self, number: int) -> int:
        """Memory that a chunk takes, bytes, about."""
        job = self._jobs[number]
        return self._encoder.cost(job) + job.size * (self._states if job.progressive else 1)

    def run(self, number: int) -> Coded:
        """Take a chunk through all steps.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
            IntegrityError: What was encoded does not decode to the original.
        """
        job, spans = self._jobs[number], self._spans[number]
        data = self._buffers.take(job.size)
        pieces = parts(data, spans)
        self._model.read_spans(spans, pieces)
        segments = [] if job.pieces else core_segments(pieces, spans)
        coded = self._encoder.encode_data(job, data, segments)
        states = decode_states(job, spans, coded.payloads, self._buffers)
        sums = self._sums(job, (*states, data))
        digests = self._hash(number, coded.payloads, states, data)
        return replace(coded, digests=tuple(digests), sums=sums)

    def _hash(
        self, number: int, payloads: Sequence[bytes], states: list[memoryview], data: memoryview
    ) -> list[bytes]:
        """Hash the states and the payloads of a chunk, and check that the last state is exact."""
        job, spans = self._jobs[number], self._spans[number]
        every = (*states, data)
        digests = self.hashes.hash_now(spans, every, payloads if self._in_step else ())
        if digests is not None and states:
            # Nobody looks at the states any more, so that the last one can become the exact one.
            check_exact(job, spans, payloads[-1], states[-1], data)
        else:
            exact = self._buffers.take(job.size)
            if states:
                exact[:] = states[-1]
            check_exact(job, spans, payloads[-1], exact, data)
            self._buffers.give([exact])
        if digests is None:
            self.hashes.add(number, spans, every)
        else:
            self._buffers.give(every)
        return digests or plain.sha256_each(payloads)

    def _sums(self, job: Job, states: States) -> tuple[tuple[int, ...], ...]:
        """In each state, checksums of the chunk's parts that a file checks."""
        checked = self._checks.parts(job)
        if not checked:
            return ()
        return tuple(
            tuple(zlib.crc32(state[p.start : p.start + p.size]) for p in checked)
            for state in states
        )
