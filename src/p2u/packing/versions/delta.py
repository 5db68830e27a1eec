"""Encode one chunk of a version update: read both sides, encode, decode."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from p2u.codec import core
from p2u.package.index import decode_pieces
from p2u.package.mapping import Map, source_bytes
from p2u.packing.allocation.shares import START
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.source import Scratch
from p2u.packing.levels.encode import Encoder, Payload, buffers, read_job
from p2u.packing.versions.differences import Change, Coding, block_bytes
from p2u.packing.versions.pairing import Side
from p2u.types import PROGRESSIVE

#: Blocks of quantised types whose bytes changed by more than this part, in 64ths, are also coded by
#: the bytes' place in the block: tables for all places cost too much where little changed.
PLACES = 2
#: A change of more than this part of its bytes, in 16ths, is coded without the parent too: the
#: smaller one counts. Weights alone come to 10 or more.
DOUBT = 8


class DeltaCoder:
    """Makes and reads payloads; used by many threads at once.

    Args:
        new: The version.
        old: Its parent.
        found: Which tensor comes from which.
    """

    def __init__(self, new: Side, old: Side, found: Map) -> None:
        self._new, self._old = new, old
        self._map = found
        offsets = [START] * len(new.layout.tensors)
        checks = Checks((), new.layout)
        self._alone = Encoder(new.source, new.layout, checks, [], offsets)
        self._mine, self._theirs = Scratch(), Scratch()

    def cost(self, change: Change) -> int:
        """Memory that encoding takes, bytes, about."""
        return self._alone.cost(change.job) + change.job.size

    def encode(self, change: Change) -> Payload:
        """Encode one chunk.

        Raises:
            DiskError, IntegrityError: A file cannot be read.
        """
        job = change.job
        if change.way is Coding.ALONE:
            return self._alone.encode(job).payloads[0]
        data = read_job(self._new.source, self._new.layout, job, self._mine)
        segments = buffers(self._new.layout, job, data)
        sources = self.sources(job)
        if change.way is Coding.ADOPT:
            found = core.encode_adopt(job.dtype, segments, sources, change.dtype)
        elif job.dtype in PROGRESSIVE:
            found = core.encode_delta(job.dtype, segments, sources, change.dtype)
        else:
            found = _opaque(job, segments, sources)
        if len(found) * 16 > job.size * DOUBT:
            alone = self._alone.encode(job).payloads[0]
            if len(alone.data) < len(found):
                return alone
        return Payload(found, hashlib.sha256(found).digest())

    def sources(self, job: Job) -> Sequence[memoryview]:
        """The parent's bytes of each segment of a chunk."""
        places = []
        for seg in job.segments:
            t = self._new.layout.tensors[seg.tensor]
            pair = self._map.tensors[seg.tensor]
            assert pair is not None
            old = self._old.layout.tensors[pair]
            at = source_bytes(t, old, *t.span(seg.first_row, seg.rows))
            assert at is not None
            places.append((old.file, old.offset + at[0], at[1]))
        memory = self._theirs.view(sum(size for _, _, size in places))
        out = []
        begin = 0
        for file, offset, size in places:
            view = memory[begin : begin + size]
            self._old.source.read_into(file, offset, view)
            out.append(view)
            begin += size
        return out

    def decode(self, change: Change, payload: bytes | memoryview, key: str) -> bytearray:
        """Decode a payload as a client does.

        Raises:
            FormatError: The payload is malformed.
        """
        job = change.job
        if job.pieces:
            return bytearray(decode_pieces(payload, job.pieces, key))
        out = bytearray(job.size)
        segments = buffers(self._new.layout, job, memoryview(out))
        sources = None if change.way is Coding.ALONE else self.sources(job)
        core.apply(payload, job.dtype, job.item, segments, sources=sources)
        return out


def _opaque(job: Job, segments: Sequence[core.Segment], sources: Sequence[memoryview]) -> bytes:
    """The payload of elements without levels."""
    found = core.encode_opaque_delta(job.item, segments, sources)
    block = block_bytes(job.dtype)
    if not block or len(found) * 64 <= job.size * PLACES:
        return found
    other = core.encode_opaque_delta(job.item, segments, sources, stride=block)
    return min(found, other, key=len)
