"""The one pass over a chunk: read, encode for all levels, read back, hash every state."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

from p2u.codec.chunk import parts
from p2u.package.geometry import chunk_spans
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Buffers
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.levels.encode import Coded, Encoder
from p2u.packing.levels.read_back import read_back
from p2u.packing.levels.state_hashes import StateHashes

#: Bytes of memory that are kept between two chunks.
SPARE = 16 << 20


class ChunkPass:
    """Used by many threads at once.

    Args:
        model: The model.
        jobs: Its chunks.
        encoder: Makes payloads.
        checks: The checksums in its files.
        states: In how many states there are files.

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
    ) -> None:
        self._model = model
        self._jobs = jobs
        self._encoder = encoder
        self._checks = checks
        self._states = states
        self._buffers = Buffers(SPARE)
        counts = [1] * len(model.files)
        for job in jobs:
            if job.progressive:
                for span in chunk_spans(job, model.layout):
                    counts[span.file] = states
        self.hashes = StateHashes(model.files, counts, self._buffers)

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
        job, layout = self._jobs[number], self._model.layout
        spans = chunk_spans(job, layout)
        data = self._buffers.take(job.size)
        self._model.read_spans(spans, parts(data, spans))
        coded = self._encoder.encode_data(job, data)
        states = read_back(job, coded.payloads, data, layout, self._buffers)
        if checked := self._checks.parts(job):
            sums = [
                tuple(zlib.crc32(state[p.start : p.start + p.size]) for p in checked)
                for state in states
            ]
            coded = replace(coded, sums=tuple(sums))
        self.hashes.add(number, spans, states)
        return coded
