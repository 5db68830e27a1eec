"""The one pass over a chunk: read, encode for all levels, read back, hash every state."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

from p2u.codec import plain
from p2u.codec.chunk import core_segments, parts
from p2u.package.geometry import Span, chunk_spans
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import BufferPool
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines.coded import Coded, Payload
from p2u.packing.engines.engine import Work
from p2u.packing.levels.encode import EncoderSpec
from p2u.packing.levels.read_back import check_exact, decode_states
from p2u.packing.levels.state_hashes import StateHashes, States

#: Bytes of memory that are kept between two chunks.
SPARE = 24 << 20
#: Up to so many threads hash payloads in step with states; more threads would wait for one another,
#: as a file's states are hashed in its order.
IN_STEP = 2


class LevelWork(Work[Job, Coded[Payload]]):
    """Encode chunks for all levels. `FileStates` decodes them, and compares with the original.

    Args:
        spec: Makes payloads.
        states: In how many states there are files.
    """

    def __init__(self, spec: EncoderSpec, states: int) -> None:
        self._spec = spec
        self.streams = states

    def start(self) -> ChunkCoder:
        """See `Work.start`."""
        return ChunkCoder(self._spec, self.streams)

    def size(self, item: Job) -> int:
        """See `Work.size`."""
        return item.size


class ChunkCoder:
    """Reads and encodes chunks; used by many threads at once.

    Args:
        spec: Makes payloads.
        states: In how many states there are files.
    """

    def __init__(self, spec: EncoderSpec, states: int) -> None:
        self._model = spec.model
        self._encoder = spec.make()
        self._checks = Checks(spec.model.files, spec.model.layout)
        self._states = states
        self.buffers = BufferPool(SPARE)

    def cost(self, job: Job) -> int:
        """Memory that a chunk takes, bytes, about."""
        return self._encoder.cost(job) + job.size * (self._states if job.progressive else 1)

    def run(self, job: Job) -> Coded[bytes]:
        """Encode a chunk; it is decoded only if a file keeps checksums of its bytes.

        Raises:
            DiskError, StoreError, IntegrityError: The model cannot be read.
        """
        spans = chunk_spans(job, self._model.layout)
        if self._checks.parts(job):
            coded, states = self.code(job, spans)
            self.buffers.give(states)
        else:
            coded, data = self._encode(job, spans)
            self.buffers.give([data])
        return replace(coded, digests=tuple(plain.sha256_each(coded.payloads)))

    def code(self, job: Job, spans: Sequence[Span]) -> tuple[Coded[bytes], States]:
        """Encode a chunk, and decode it for all states but the exact one.

        Returns:
            Its payloads without digests, and its bytes in each state: the last are the original's.

        Raises:
            See `run`; IntegrityError if it cannot be decoded.
        """
        coded, data = self._encode(job, spans)
        states = (*decode_states(job, spans, coded.payloads, self.buffers), data)
        return replace(coded, sums=self._sums(job, states)), states

    def _encode(self, job: Job, spans: Sequence[Span]) -> tuple[Coded[bytes], memoryview]:
        """The payloads of a chunk, and its bytes."""
        data = self.buffers.take(job.size)
        pieces = parts(data, spans)
        self._model.read_spans(spans, pieces)
        segments = [] if job.pieces else core_segments(pieces, spans)
        return self._encoder.encode_data(job, data, segments), data

    def _sums(self, job: Job, states: States) -> tuple[tuple[int, ...], ...]:
        """In each state, checksums of the chunk's parts that a file checks."""
        checked = self._checks.parts(job)
        if not checked:
            return ()
        return tuple(
            tuple(zlib.crc32(state[p.start : p.start + p.size]) for p in checked)
            for state in states
        )


class HashedPass(Work[int, Coded[Payload]]):
    """The same in threads of this process, with all files hashed along.

    Args:
        spec: Makes payloads.
        jobs: All chunks; items are their numbers.
        states: In how many states there are files.
        threads: How many threads there are.

    Attributes:
        hashes: The digests of all files.
    """

    def __init__(self, spec: EncoderSpec, jobs: Sequence[Job], states: int, threads: int) -> None:
        model = spec.model
        self.streams = states
        self._coder = ChunkCoder(spec, states)
        self._jobs = jobs
        self._spans = [chunk_spans(job, model.layout) for job in jobs]
        self._in_step = threads <= IN_STEP
        counts = state_counts(model, jobs, states)
        self.hashes = StateHashes(model.files, counts, self._coder.buffers)

    def start(self) -> HashedPass:
        """See `Work.start`."""
        return self

    def size(self, item: int) -> int:
        """See `Work.size`."""
        return self._jobs[item].size

    def order(self) -> list[int]:
        """The chunks in the order of their first bytes in the files: none waits to be hashed."""
        first = [min((span.file, span.offset) for span in spans) for spans in self._spans]
        return sorted(range(len(first)), key=first.__getitem__)

    def cost(self, number: int) -> int:
        """Memory that a chunk takes, bytes, about."""
        return self._coder.cost(self._jobs[number])

    def run(self, number: int) -> Coded[bytes]:
        """Take a chunk through all steps; raises as `ChunkCoder.run`."""
        coded, states = self._coder.code(self._jobs[number], self._spans[number])
        return replace(coded, digests=tuple(self._hash(number, coded.payloads, states)))

    def _hash(self, number: int, payloads: Sequence[bytes], every: States) -> list[bytes]:
        """Hash the states and the payloads of a chunk, and check that the last state is exact."""
        job, spans, buffers = self._jobs[number], self._spans[number], self._coder.buffers
        *states, data = every
        digests = self.hashes.hash_now(spans, every, payloads if self._in_step else ())
        if digests is not None and states:
            # Nobody looks at the states any more, so that the last one can become the exact one.
            check_exact(job, spans, payloads[-1], states[-1], data)
        else:
            exact = buffers.take(job.size)
            if states:
                exact[:] = states[-1]
            check_exact(job, spans, payloads[-1], exact, data)
            buffers.give([exact])
        if digests is None:
            self.hashes.add(number, spans, every)
        else:
            buffers.give(every)
        return digests or plain.sha256_each(payloads)


def state_counts(model: StoredModel, jobs: Sequence[Job], states: int) -> list[int]:
    """In how many states each file may differ."""
    counts = [1] * len(model.files)
    for job in jobs:
        if job.progressive:
            for seg in job.segments:
                counts[model.tensors[seg.tensor].file] = states
    return counts
