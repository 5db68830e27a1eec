"""Compute the checksums that files keep of their own bytes, for every state.

A state's tensors differ from the original's, and so must the checksums, or nobody would open the
file. They are put together from checksums of the chunks' parts while these are encoded, and written
last, as pieces of their own: a reader knows nothing of checksums.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2u.package.geometry import Piece, chunk_spans
from p2u.package.layout import Layout
from p2u.packing.chunking.crc import combine
from p2u.packing.chunking.cut import FIELD, Job
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.types import Check, ModelFile

#: Most checksums in a chunk.
MANY = 1 << 14


@dataclass(frozen=True, slots=True)
class CheckedPart:
    """Some of a chunk's bytes that one check covers: where in the file, and where in the chunk."""

    check: int
    offset: int
    size: int
    start: int


@dataclass(slots=True)
class _Known:
    """A check, and the sums of the parts so far: offset, size, sums by state (one if all agree)."""

    file: int
    check: Check
    parts: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)

    def sums(self, states: int) -> list[int] | None:
        """The checksum in every state; None if not all that it covers is known."""
        sums = [0] * states
        at = self.check.start
        for offset, size, parts in sorted(self.parts):
            if offset != at:
                return None
            for state in range(states):
                part = parts[min(state, len(parts) - 1)]
                sums[state] = combine(sums[state], part, size)
            at += size
        return sums if at == self.check.start + self.check.length else None


class Checks:
    """All checks of a model.

    Args:
        files: The model's.
        layout: Its tensors.
    """

    def __init__(self, files: Sequence[ModelFile], layout: Layout) -> None:
        self._layout = layout
        self._known = [
            _Known(number, check)
            for number, file in enumerate(files)
            for check in sorted(file.checks, key=lambda check: check.start)
        ]
        self._starts = [(known.file, known.check.start) for known in self._known]

    def parts(self, job: Job) -> list[CheckedPart]:
        """The parts of a chunk that checks cover."""
        found: list[CheckedPart] = []
        start = 0
        for place in chunk_spans(job, self._layout) if self._known else ():
            stop = place.offset + place.size
            at = max(0, bisect_right(self._starts, (place.file, place.offset)) - 1)
            while at < len(self._known) and self._starts[at] < (place.file, stop):
                known = self._known[at]
                first = max(place.offset, known.check.start)
                last = min(stop, known.check.start + known.check.length)
                if known.file == place.file and first < last:
                    found.append(CheckedPart(at, first, last - first, start + first - place.offset))
                at += 1
            start += place.size
        return found

    def add(self, job: Job, sums: Sequence[tuple[int, ...]]) -> None:
        """Take note of a chunk's checksums: per state those of its `parts`, in order."""
        for part, states in zip(self.parts(job), zip(*sums, strict=True), strict=False):
            self._known[part.check].parts.append((part.offset, part.size, states))

    def jobs(self, model: StoredModel, states: int) -> list[tuple[Job, list[bytes]]]:
        """The chunks that hold the checksums, with their bytes in every state.

        One alone if all states agree. A field whose checksum is not that of the original's bytes,
        whatever it is then, keeps its bytes in all states.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
        """
        steady: list[tuple[Piece, list[bytes]]] = []
        moving: list[tuple[Piece, list[bytes]]] = []
        for known in self._known:
            sums = known.sums(states) or []
            values = [value.to_bytes(FIELD, "little") for value in sums]
            for at in known.check.fields:
                found = bytes(model.read(known.file, at, FIELD))
                place = Piece(known.file, at, FIELD)
                if values and values[-1] == found and len(set(values)) > 1:
                    moving.append((place, values))
                else:
                    steady.append((place, [found]))
        return [*_jobs(steady), *_jobs(moving)]


def _jobs(fields: list[tuple[Piece, list[bytes]]]) -> Iterator[tuple[Job, list[bytes]]]:
    fields.sort(key=lambda found: (found[0].file, found[0].offset))
    for begin in range(0, len(fields), MANY):
        some = fields[begin : begin + MANY]
        job = Job(Treatment.OPAQUE, "", 1, (), 0, tuple(place for place, _ in some))
        yield job, [b"".join(state) for state in zip(*(v for _, v in some), strict=True)]
