"""Encode one chunk for all levels: read, encode, hash."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import zstandard

from p2u.codec import core
from p2u.codec.chunk import core_segments, parts
from p2u.package.geometry import chunk_spans
from p2u.package.layout import Layout
from p2u.packing.chunking.checks import CheckedPart, Checks
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Scratch
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.rounding.codes import CalibrationPlan, Rounding

#: Of zstd. The bytes depend on zstd's version, too: the only part of a package that does.
LEVEL, LARGE_LEVEL = 19, 12

#: A chunk of floats may be this many per cent larger than an opaque one before it goes opaque.
#: Levels are worth some bytes: an opaque chunk is all in the base.
PERCENT = {Treatment.PROGRESSIVE: 8, Treatment.FULL: 2}
#: The same where a calibration chose the codes: a better base costs bytes at the end.
PERCENT_CALIBRATED = 20
#: Elements that the guess at the opaque size looks at, and in how many places.
SAMPLE, PLACES = 1 << 14, 16


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload and its SHA-256 digest."""

    data: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Coded:
    """A chunk in all updates.

    Attributes:
        payloads: One per update; the first alone if the chunk is exact from the base on.
        signal: Sum of squares of its weights, if it is a progressive one.
        errors: Sum of squared errors in each state.
        sums: In each update's state, checksums of the chunk's parts that a file checks.
    """

    payloads: tuple[Payload, ...]
    signal: float
    errors: tuple[float, ...]
    sums: tuple[tuple[int, ...], ...] = ()


def rows_in(memory: memoryview, job: Job, layout: Layout) -> list[core.Segment]:
    """The segments of a chunk in memory, back to back."""
    spans = chunk_spans(job, layout)
    return core_segments(parts(memory, spans), spans)


def read_job(model: StoredModel, job: Job, scratch: Scratch) -> memoryview:
    """The bytes of a chunk, back to back, in the scratch memory.

    Raises:
        DiskError, IntegrityError: see `StoredModel.read_into`.
    """
    out = scratch.view(job.size)
    spans = chunk_spans(job, model.layout)
    model.read_spans(spans, parts(out, spans))
    return out


class Encoder:
    """Makes payloads; used by many threads at once.

    Args:
        model: The model.
        checks: Its checksums.
        halvings: Of the base's step at each level after the base; 0, the last, is exact.
        offsets: Of each tensor's base step.
        calibration: What to know for other codes than each weight's nearest.
    """

    def __init__(
        self,
        model: StoredModel,
        checks: Checks,
        halvings: Sequence[int],
        offsets: Sequence[int],
        calibration: CalibrationPlan | None = None,
    ) -> None:
        self._model = model
        self._checks = checks
        self._halvings = tuple(halvings)
        self._offsets = offsets
        self._rounding = Rounding(calibration, model, self._tensor_scales)
        self._scratch = Scratch()

    def cost(self, job: Job) -> int:
        """Memory that encoding takes, bytes, about."""
        if job.pieces:
            return 16 << 20 if job.large else 32 << 20
        # Data, payloads and, for checksums, a state; the core works on 32-bit copies: bits, state,
        # bins, rests, symbols.
        work = 3 * job.item + (22 if job.dtype in core.CODES else 4)
        return job.elems * work + self._rounding.cost(job)

    def encode(self, job: Job) -> Coded:
        """Encode one chunk.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
        """
        data = read_job(self._model, job, self._scratch)
        coded = self._encode(job, data)
        if parts := self._checks.parts(job):
            coded = replace(coded, sums=self._sums(job, data, coded.payloads, parts))
        return coded

    def base_size(self, job: Job) -> int:
        """Bytes of the base's payload; of a progressive chunk with each weight's nearest code.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
        """
        data = read_job(self._model, job, self._scratch)
        if not job.progressive:
            return len(self._encode(job, data).payloads[0].data)
        segments = rows_in(data, job, self._model.layout)
        return len(core.encode(job.dtype, segments, self._scales(job, segments), []).payloads[0])

    def _tensor_scales(self, tensor: int, rows: core.Segment) -> bytes:
        return core.row_scales(self._model.tensors[tensor].dtype, self._offsets[tensor], [rows])

    def _scales(self, job: Job, segments: Sequence[core.Segment]) -> bytes:
        pairs = zip(job.segments, segments, strict=True)
        return b"".join(self._tensor_scales(seg.tensor, segment) for seg, segment in pairs)

    def _sums(
        self, job: Job, data: memoryview, payloads: Sequence[Payload], parts: list[CheckedPart]
    ) -> tuple[tuple[int, ...], ...]:
        """Checksums of a chunk's parts in each update's state; the last one's is the source."""

        def sums(content: bytearray | memoryview) -> tuple[int, ...]:
            view = memoryview(content)
            return tuple(zlib.crc32(view[p.start : p.start + p.size]) for p in parts)

        out = []
        if len(payloads) > 1:
            state = bytearray(len(data))
            segments = rows_in(memoryview(state), job, self._model.layout)
            for payload in payloads[:-1]:
                core.apply(payload.data, job.dtype, job.item, segments)
                out.append(sums(state))
        return (*out, sums(data))

    def _encode(self, job: Job, data: memoryview) -> Coded:
        if job.pieces:
            return encode_pieces([data], large=job.large)
        segments = rows_in(data, job, self._model.layout)
        if job.how is Treatment.OPAQUE:
            return _coded(core.encode_opaque(job.item, segments).payloads)
        scales = self._scales(job, segments)
        full = job.how is Treatment.FULL
        codes = self._rounding.codes(job, segments, scales)
        levels = [0] if full else self._halvings
        made = core.encode(job.dtype, segments, scales, levels, codes=codes, full=full)
        size = sum(map(len, made.payloads))
        states = len(self._halvings) + 1
        # Encoding twice would take half as long again: only where it seems to pay.
        if opaque_guess(data, job.item) < size:
            other = core.encode_opaque(job.item, segments)
            percent = PERCENT[job.how] if codes is None else PERCENT_CALIBRATED
            if size * 100 >= len(other.payloads[0]) * (100 + percent):
                return _coded(other.payloads, made.signal, [0.0] * states)
        return _coded(made.payloads, made.signal, [0.0] * states if full else made.errors)


def encode_pieces(
    states: Sequence[bytes | bytearray | memoryview], *, large: bool = False
) -> Coded:
    """A chunk of pieces: its bytes in each update's state, one alone if they never change."""
    compressor = zstandard.ZstdCompressor(level=LARGE_LEVEL if large else LEVEL)
    return _coded([compressor.compress(state) for state in states])


def _coded(payloads: Sequence[bytes], signal: float = 0.0, errors: Sequence[float] = ()) -> Coded:
    hashed = tuple(Payload(p, hashlib.sha256(p).digest()) for p in payloads)
    return Coded(hashed, signal, tuple(errors))


def opaque_guess(data: memoryview, item: int) -> int:
    """Bytes that the opaque coding would need, about: the entropy of the byte planes, sampled."""
    planes = np.frombuffer(data, np.uint8).reshape(-1, item)
    count = len(planes)
    if count > SAMPLE:
        part = SAMPLE // PLACES
        starts = [(count - part) * k // (PLACES - 1) for k in range(PLACES)]
        planes = np.concatenate([planes[s : s + part] for s in starts])
    weigh = _n_log_n(max(SAMPLE, len(planes))).__getitem__
    total = item * weigh(len(planes))
    for plane in range(item):
        seen = np.bincount(planes[:, plane], minlength=256)
        total -= sum(map(weigh, seen.tolist()))
    return int(total / 8 * count / len(planes))


@lru_cache(maxsize=1)
def _n_log_n(most: int) -> tuple[float, ...]:
    """``n * log2(n)`` for all counts up to ``most``; a logarithm per count is what would cost."""
    return (0.0, *(n * math.log2(n) for n in range(1, most + 1)))
