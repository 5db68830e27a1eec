"""Measure on a sample of a model how many bits per weight a base takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from p2u.codec import core
from p2u.package.geometry import Seg, segment_span
from p2u.package.layout import Layout
from p2u.packing.allocation.shares import FINE
from p2u.packing.chunking.cut import Grade, Job
from p2u.packing.chunking.stored import StoredModel

#: Weights in the sample, about: this part of the model's, within these bounds. Smaller models are
#: measured whole.
PART, LEAST, MOST = 32, 1 << 20, 1 << 22
#: Weights per block: enough for tables and columns' classes to be as in a chunk.
BLOCK = 1 << 17
#: Rows of a block, at least: fewer have no classes of columns.
ROWS = 256


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that are coded together, and how many weights they stand for."""

    dtype: str
    tensors: tuple[int, ...]
    segments: tuple[core.Segment, ...]
    weights: int
    stands_for: int


class Sample:
    """Evenly spread blocks of some progressive tensors, of each grade at least one.

    Args:
        model: The model.
        jobs: Its chunks.
        grades: How each tensor is coded.
        numbers: The tensors to look at.

    Raises:
        DiskError, IntegrityError: The model cannot be read.
    """

    def __init__(
        self,
        model: StoredModel,
        jobs: Sequence[Job],
        grades: Sequence[Grade],
        numbers: Collection[int],
    ) -> None:
        layout = model.layout
        self.weights = sum(layout.tensors[n].elems for n in numbers)
        size = min(max(LEAST, self.weights // PART), MOST)
        strata: dict[tuple[str, Grade], list[tuple[Seg, ...]]] = {}
        for job in jobs:
            if job.progressive and job.segments[0].tensor in numbers:
                kind = job.dtype, grades[job.segments[0].tensor]
                strata.setdefault(kind, []).extend(_blocks(layout, job))
        self._blocks: list[_Block] = []
        for (dtype, _), blocks in strata.items():
            count = -(-len(blocks) * size // max(size, self.weights))
            chosen = [blocks[len(blocks) * (2 * k + 1) // (2 * count)] for k in range(count)]
            whole, part = _weights(layout, blocks), _weights(layout, chosen)
            for segs in chosen:
                weights = _weights(layout, [segs])
                read = tuple(_read(model, seg) for seg in segs)
                numbers_ = tuple(seg.tensor for seg in segs)
                self._blocks.append(_Block(dtype, numbers_, read, weights, whole * weights // part))

    @property
    def stands_for(self) -> list[int]:
        """How many weights each block stands for."""
        return [block.stands_for for block in self._blocks]

    def sizes(self, offsets: Mapping[int, int], threads: int) -> list[int]:
        """Bits that the base takes with these offsets, about, of what each block stands for."""

        def bits(block: _Block) -> int:
            scales = b"".join(
                core.row_scales(block.dtype, offsets[tensor], [segment])
                for tensor, segment in zip(block.tensors, block.segments, strict=True)
            )
            payload = core.encode(block.dtype, block.segments, scales, []).payloads[0]
            return 8 * len(payload) * block.stands_for // block.weights

        if threads == 1 or len(self._blocks) == 1:
            return list(map(bits, self._blocks))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(bits, self._blocks))

    def places(self, offsets: Mapping[int, int]) -> list[int]:
        """The average of these offsets in each block, in 1/64."""
        return [
            FINE
            * sum(offsets[t] * s.elems for t, s in zip(b.tensors, b.segments, strict=True))
            // b.weights
            for b in self._blocks
        ]


def _blocks(layout: Layout, job: Job) -> Iterator[tuple[Seg, ...]]:
    """The rows of a chunk in blocks: parts of large tensors, small tensors together."""
    group: list[Seg] = []
    weights = 0
    for seg in job.segments:
        t = layout.tensors[seg.tensor]
        most = max(ROWS, BLOCK // t.cols)
        count = -(-seg.rows // most)
        for k in range(count):
            first, stop = seg.rows * k // count, seg.rows * (k + 1) // count
            group.append(Seg(seg.tensor, seg.first_row + first, stop - first))
            weights += (stop - first) * t.cols
            if weights >= BLOCK // 2:
                yield tuple(group)
                group, weights = [], 0
    if group:
        yield tuple(group)


def _weights(layout: Layout, blocks: Sequence[tuple[Seg, ...]]) -> int:
    return sum(segment_span(seg, layout).elems for block in blocks for seg in block)


def _read(model: StoredModel, seg: Seg) -> core.Segment:
    span = segment_span(seg, model.layout)
    return core.Segment(model.read(span.file, span.offset, span.size), span.elems, span.cols)
