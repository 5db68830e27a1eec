"""Encode one chunk of an update between two versions: read both, keep the shorter payload."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from p2u.codec import core
from p2u.codec.chunk import parts
from p2u.package.mapping import Map, source_spans
from p2u.packing.allocation.shares import START
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Scratch
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines.coded import Coded, Payload
from p2u.packing.engines.engine import Work
from p2u.packing.levels.encode import Encoder, read_job, rows_in
from p2u.packing.versions.differences import Change, Coding, block_bytes
from p2u.types import PROGRESSIVE

#: Blocks of quantised types whose bytes changed by more than this part, in 64ths, are also coded by
#: the bytes' place in the block: tables for all places cost too much where little changed.
PLACES = 2
#: A change of more than this part of its bytes, in 16ths, is coded without the parent too: the
#: smaller one counts. Weights alone come to 10 or more.
DOUBT = 8


class DeltaWork(Work[Change, Coded[Payload]]):
    """Encode the chunks of an update between two versions; see `DeltaCoder`."""

    streams = 1

    def __init__(self, new: StoredModel, old: StoredModel, found: Map) -> None:
        self._new, self._old, self._map = new, old, found

    def start(self) -> DeltaCoder:
        """See `Work.start`."""
        return DeltaCoder(self._new, self._old, self._map)

    def size(self, item: Change) -> int:
        """See `Work.size`."""
        return item.job.size


class DeltaCoder:
    """Makes payloads; used by many threads at once.

    Args:
        new: The version.
        old: Its parent.
        found: Which tensor comes from which.
    """

    def __init__(self, new: StoredModel, old: StoredModel, found: Map) -> None:
        self._new, self._old = new, old
        self._map = found
        offsets = [START] * len(new.tensors)
        self._alone = Encoder(new, [], offsets)
        self._mine, self._theirs = Scratch(), Scratch()

    def cost(self, change: Change) -> int:
        """Memory that encoding takes, bytes, about."""
        return self._alone.cost(change.job) + change.job.size

    def run(self, change: Change) -> Coded[bytes]:
        """Encode one chunk.

        Raises:
            DiskError, IntegrityError: A file cannot be read.
        """
        data = self._encode(change)
        return Coded((data,), digests=(hashlib.sha256(data).digest(),))

    def _encode(self, change: Change) -> bytes:
        job = change.job
        if change.coding is Coding.ALONE:
            return self._alone.encode(job).payloads[0]
        data = read_job(self._new, job, self._mine)
        segments = rows_in(data, job, self._new.layout)
        sources = self._sources(job)
        if change.coding is Coding.ADOPT:
            found = core.encode_adopt(job.dtype, segments, sources, change.dtype)
        elif job.dtype in PROGRESSIVE:
            found = core.encode_delta(job.dtype, segments, sources, change.dtype)
        else:
            found = _opaque(job, segments, sources)
        if len(found) * 16 > job.size * DOUBT:
            alone = self._alone.encode(job).payloads[0]
            return min(found, alone, key=len)
        return found

    def _sources(self, job: Job) -> Sequence[memoryview]:
        """The parent's bytes of each segment of a chunk."""
        found = source_spans(job, self._map, self._new, self._old)
        spans = [span for span in found if span is not None]
        assert len(spans) == len(found)
        buffers = parts(self._theirs.view(sum(span.size for span in spans)), spans)
        self._old.read_spans(spans, buffers)
        return buffers


def _opaque(job: Job, segments: Sequence[core.Segment], sources: Sequence[memoryview]) -> bytes:
    """The payload of elements without levels."""
    found = core.encode_opaque_delta(job.item, segments, sources)
    block = block_bytes(job.dtype)
    if not block or len(found) * 64 <= job.size * PLACES:
        return found
    other = core.encode_opaque_delta(job.item, segments, sources, stride=block)
    return min(found, other, key=len)
