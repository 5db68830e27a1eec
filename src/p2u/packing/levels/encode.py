"""Encode one chunk for all levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import zstandard

from p2u.codec import core, plain
from p2u.codec.chunk import core_segments, parts
from p2u.package.geometry import chunk_spans
from p2u.package.layout import Layout
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Scratch
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.engines.coded import Coded
from p2u.packing.engines.engine import Work
from p2u.packing.rounding.plan import CalibrationPlan, has_codes

if TYPE_CHECKING:
    from p2u.packing.rounding.codes import Rounding

#: Of zstd. The bytes depend on zstd's version, too: the only part of a package that does.
LEVEL, LARGE_LEVEL = 19, 12

#: A chunk of floats may be this many per cent larger than an opaque one before it goes opaque.
#: Levels are worth some bytes: an opaque chunk is all in the base.
PERCENT = {Treatment.PROGRESSIVE: 8, Treatment.FULL: 2}
#: The same where a calibration chose the codes: a better base costs bytes at the end.
PERCENT_CALIBRATED = 20
#: Elements that the guess at the opaque size looks at, and in how many places.
SAMPLE, PLACES = 1 << 14, 16


def rows_in(memory: memoryview, job: Job, layout: Layout) -> list[core.Segment]:
    """The segments of a chunk in memory, back to back."""
    spans = [] if job.pieces else chunk_spans(job, layout)
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
        halvings: Of the base's step at each level after the base; 0, the last, is exact.
        offsets: Of each tensor's base step.
        calibration: What to know for other codes than each weight's nearest.
    """

    def __init__(
        self,
        model: StoredModel,
        halvings: Sequence[int],
        offsets: Sequence[int],
        calibration: CalibrationPlan | None = None,
    ) -> None:
        self._model = model
        self._halvings = tuple(halvings)
        self._offsets = offsets
        self._rounding: Rounding | None = None
        floats = [(n, t) for n, t in enumerate(model.tensors) if t.dtype in core.CODES]
        if any(has_codes(n, t, calibration) for n, t in floats):
            from p2u.packing.rounding.codes import Rounding  # loads NumPy

            self._rounding = Rounding(calibration, model, self._tensor_scales)
        self._scratch = Scratch()

    def cost(self, job: Job) -> int:
        """Memory that encoding takes, bytes, about."""
        if job.pieces:
            return 16 << 20 if job.large else 32 << 20
        # Data, payloads and, for checksums, a state; the core works on 32-bit copies: bits, state,
        # bins, rests, symbols.
        work = 3 * job.item + (22 if job.dtype in core.CODES else 4)
        return job.elems * work + (self._rounding.cost(job) if self._rounding else 0)

    def encode(self, job: Job) -> Coded[bytes]:
        """Read a chunk and encode it.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
        """
        data = read_job(self._model, job, self._scratch)
        return self.encode_data(job, data, rows_in(data, job, self._model.layout))

    def base_size(self, job: Job) -> int:
        """Bytes of the base's payload; of a progressive chunk with each weight's nearest code.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
        """
        data = read_job(self._model, job, self._scratch)
        segments = rows_in(data, job, self._model.layout)
        if not job.progressive:
            return len(self.encode_data(job, data, segments).payloads[0])
        return len(core.encode(job.dtype, segments, self._scales(job, segments), []).payloads[0])

    def _tensor_scales(self, tensor: int, rows: core.Segment) -> bytes:
        return core.row_scales(self._model.tensors[tensor].dtype, self._offsets[tensor], [rows])

    def _scales(self, job: Job, segments: Sequence[core.Segment]) -> bytes:
        offsets = [self._offsets[seg.tensor] for seg in job.segments]
        pairs = groupby(zip(offsets, segments, strict=True), key=itemgetter(0))
        return b"".join(
            core.row_scales(job.dtype, offset, [segment for _, segment in group])
            for offset, group in pairs
        )

    def encode_data(
        self, job: Job, data: memoryview, segments: Sequence[core.Segment]
    ) -> Coded[bytes]:
        """Encode a chunk.

        Args:
            job: The chunk.
            data: Its bytes, back to back.
            segments: Its rows in there.

        Raises:
            DiskError, IntegrityError: More of the model cannot be read, for a calibration.
        """
        if job.pieces:
            return encode_pieces([data], large=job.large)
        if job.how is Treatment.OPAQUE:
            return Coded(tuple(core.encode_opaque(job.item, segments).payloads))
        scales = self._scales(job, segments)
        full = job.how is Treatment.FULL
        codes = self._rounding.codes(job, segments, scales) if self._rounding else None
        levels = [0] if full else self._halvings
        made = core.encode(job.dtype, segments, scales, levels, codes=codes, full=full)
        size = sum(map(len, made.payloads))
        states = len(self._halvings) + 1
        # Encoding twice would take half as long again: only where it seems to pay.
        if opaque_guess(data, job.item) < size:
            other = core.encode_opaque(job.item, segments)
            percent = PERCENT[job.how] if codes is None else PERCENT_CALIBRATED
            if size * 100 >= len(other.payloads[0]) * (100 + percent):
                return Coded(tuple(other.payloads), made.signal, (0.0,) * states)
        errors = (0.0,) * states if full else tuple(made.errors)
        return Coded(tuple(made.payloads), made.signal, errors)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """The arguments of an `Encoder`, which another process may have, too."""

    model: StoredModel
    halvings: tuple[int, ...]
    offsets: tuple[int, ...]
    calibration: CalibrationPlan | None = None

    def make(self) -> Encoder:
        """An encoder."""
        return Encoder(self.model, self.halvings, self.offsets, self.calibration)


class BaseSizes(Work[Job, int]):
    """The bytes of the base's payload of each chunk; see `Encoder.base_size`."""

    def __init__(self, spec: EncoderSpec) -> None:
        self._spec = spec

    def start(self) -> _Measuring:
        """See `Work.start`."""
        return _Measuring(self._spec.make())

    def size(self, item: Job) -> int:
        """See `Work.size`."""
        return item.size


class _Measuring:
    """`BaseSizes`, begun."""

    def __init__(self, encoder: Encoder) -> None:
        self.cost = encoder.cost
        self.run = encoder.base_size


def encode_pieces(
    states: Sequence[bytes | bytearray | memoryview], *, large: bool = False
) -> Coded[bytes]:
    """A chunk of pieces: its bytes in each update's state, one alone if they never change."""
    compressor = zstandard.ZstdCompressor(level=LARGE_LEVEL if large else LEVEL)
    return Coded(tuple(compressor.compress(state) for state in states))


def opaque_guess(data: memoryview, item: int) -> int:
    """Bytes that the opaque coding would need, about: the entropy of the byte planes, sampled."""
    count = len(data) // item
    if count <= SAMPLE:
        return plain.opaque_bits(item, [data]) // (8 * 256)
    part = SAMPLE // PLACES
    starts = [(count - part) * k // (PLACES - 1) for k in range(PLACES)]
    runs = [data[s * item : (s + part) * item] for s in starts]
    return plain.opaque_bits(item, runs) * count // (SAMPLE * 8 * 256)
