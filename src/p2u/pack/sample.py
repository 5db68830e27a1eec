"""How many bits per weight a base step gives, measured on some rows of every tensor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from p2u import core
from p2u.layout import Layout, Tensor
from p2u.pack.cut import CHUNK_ELEMENTS, Job
from p2u.pack.source import Source

#: Weights in the sample, about; each tensor's part is that of its weights.
SAMPLE = 1 << 20
#: Elements per read, at least: opening a file has its price.
RUN = 1 << 12


@dataclass(slots=True)
class _Part:
    """Sampled rows of one dtype, coded as one chunk."""

    dtype: str
    segments: list[core.Segment] = field(default_factory=list)
    elems: int = 0


class Sample:
    """Rows of all progressive tensors.

    Args:
        source: The model.
        layout: Its tensors.
        jobs: Its chunks; progressive ones are looked at.

    Raises:
        DiskError, IntegrityError: The source cannot be read.
    """

    def __init__(self, source: Source, layout: Layout, jobs: list[Job]) -> None:
        self._parts: list[_Part] = []
        latest: dict[str, _Part] = {}
        total = sum(job.elems for job in jobs if job.progressive)
        for job in jobs:
            for seg in job.segments if job.progressive else ():
                t = layout.tensors[seg.tensor]
                segment = _read(source, t, seg.first_row, seg.rows, total)
                part = latest.get(t.dtype)
                if part is None or part.elems + segment.elems > CHUNK_ELEMENTS:
                    part = latest[t.dtype] = _Part(t.dtype)
                    self._parts.append(part)
                part.segments.append(segment)
                part.elems += segment.elems

    def __bool__(self) -> bool:
        return bool(self._parts)

    def measure(self, offset: int, threads: int) -> tuple[int, int]:
        """Bits and weights of the sample's base with this offset of the step."""

        def size(part: _Part) -> int:
            scales = core.row_scales(part.dtype, offset, part.segments)
            return len(core.encode(part.dtype, part.segments, scales, []).payloads[0])

        weights = sum(part.elems for part in self._parts)
        if threads == 1 or len(self._parts) == 1:
            return 8 * sum(map(size, self._parts)), weights
        with ThreadPoolExecutor(threads) as pool:
            return 8 * sum(pool.map(size, self._parts)), weights


def _read(source: Source, t: Tensor, first: int, rows: int, total: int) -> core.Segment:
    """Evenly spread rows out of ``rows``, as many as are this part's of the sample."""
    count = min(rows, -(-rows * SAMPLE // max(total, SAMPLE)))
    run = min(count, -(-RUN // t.cols))  # rows that are read at once
    runs = -(-count // run)
    if 2 * count >= rows:
        run, runs = rows, 1
    out = bytearray()
    elems = 0
    for k in range(runs):
        row = first + (rows - run) * (2 * k + 1) // (2 * runs)
        begin, length = t.span(row, run)
        out += source.read(t.file, t.offset + begin * t.item, length * t.item)
        elems += length
    return core.Segment(out, elems, t.cols)
