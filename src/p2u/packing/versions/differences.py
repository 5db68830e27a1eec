"""Find what a new version has that its parent lacks, and cut it into chunks.

Rows and bytes that are the same cost nothing and get no chunk. Tensors that changed alike (by the
part of their elements) share chunks, whose tables then fit; hardly changed ones share large chunks,
because there the tables are what costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from p2u.names.order import forward_key
from p2u.package.geometry import Piece, Seg
from p2u.package.index import MAX_PIECE
from p2u.package.layout import Tensor
from p2u.package.mapping import Map
from p2u.packing.chunking.cut import GAPS, Job
from p2u.packing.chunking.pool import Scratch
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.engines.engine import Engine, Work
from p2u.packing.versions.pairing import fits
from p2u.types import BLOCKS, ELEMENT_TYPES, PROGRESSIVE

#: Most elements of a chunk of rows that changed little, and of what changed in most places.
SPARSE_ELEMENTS = 1 << 22
#: Rows in between that did not change are coded along if they have at most so many elements:
#: another segment costs more.
GAP_ELEMENTS = 1 << 14
#: A tensor is in band ``b`` if up to ``2**-2b`` of its elements changed.
BANDS = 5
#: Largest blocks, in bytes, whose bytes are coded by their place in the block.
MAX_STRIDE = 256
_BLOCK_BYTES = {t.name: t.size for t in ELEMENT_TYPES if t.elems > 1 and t.size <= MAX_STRIDE}
#: Bytes that are compared at once, and those of carried files.
LOOK, LOOK_CARRIED = 1 << 20, 64 << 10
#: Bytes of memory for tensors that are being compared.
BUDGET = 128 << 20


class Coding(Enum):
    """The ways to code rows."""

    #: As a change of the parent's.
    DELTA = "delta"
    #: From blocks of a quantised type.
    ADOPT = "adopt"
    #: Without the parent.
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Change:
    """One chunk to make.

    Attributes:
        job: Its rows or pieces.
        coding: Of its rows.
        dtype: Of the parent's tensors, with `DELTA` and `ADOPT`.
        band: How much of them changed; 0 is most.
    """

    job: Job
    coding: Coding
    dtype: str = ""
    band: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a tensor with the same coding."""

    number: int
    first: int
    count: int
    coding: Coding
    dtype: str
    band: int


class RowComparison(Work[int, list[_Rows]]):
    """Compare tensors with their parent's, by number: which rows some chunk has to bring.

    Args:
        new: The version.
        old: The parent.
        map: Which tensor comes from which.
        most: Most elements of a chunk, unless little of them changed.
    """

    def __init__(
        self,
        new: StoredModel,
        old: StoredModel,
        map: Map,  # noqa: A002 - its name in index
        most: int,
    ) -> None:
        self._new, self._old = new, old
        self._map = map
        self._most = most

    def start(self) -> _RowComparer:
        """See `Work.start`."""
        return _RowComparer(self._new, self._old, self._map, self._most)

    def size(self, item: int) -> int:
        """See `Work.size`."""
        return self._new.tensors[item].length


class _RowComparer:
    """`RowComparison`, begun."""

    def __init__(
        self,
        new: StoredModel,
        old: StoredModel,
        map: Map,  # noqa: A002 - its name in index
        most: int,
    ) -> None:
        self._new, self._old = new, old
        self.map = map
        self._most = most
        self._mine, self._theirs = Scratch(), Scratch()

    def cost(self, item: int) -> int:
        """See `StartedWork.cost`: of two buffers, masks and the numbers of rows."""
        return 4 * LOOK + 8 * self._new.tensors[item].rows

    def run(self, item: int) -> list[_Rows]:
        """Compare a tensor.

        Raises:
            DiskError, StoreError, IntegrityError: A file cannot be read.
        """
        return list(self._rows(item, self._new.tensors[item]))

    def _rows(self, number: int, t: Tensor) -> Iterator[_Rows]:
        """The rows of a tensor that some chunk has to bring."""
        pair = self.map.tensors[number]
        if pair is None:
            yield _Rows(number, 0, t.rows, Coding.ALONE, "", 0)
            return
        old = self._old.tensors[pair]
        assert fits(t, old)
        same = t.dtype == old.dtype
        common = min(t.elems, old.elems if same else self._old.elements(old))
        # Of the last row all elements must have a counterpart.
        rows = t.rows if common == t.elems else common // t.cols
        if not same and old.dtype in BLOCKS:
            rows = _whole(t, rows, BLOCKS[old.dtype][0], self._most)
            if rows:
                yield _Rows(number, 0, rows, Coding.ADOPT, old.dtype, 0)
        elif not same:
            if rows:
                yield _Rows(number, 0, rows, Coding.DELTA, old.dtype, 0)
        else:
            changed, elems = self._compare(t, old, rows)
            band = 0
            while band < BANDS - 1 and elems << (2 * band + 1) < t.elems:
                band += 1
            # Whole blocks, so that each byte's place in its block is known.
            unit = _unit(t, block_bytes(t.dtype) or 1)
            if unit > 1:
                changed = np.unique(changed // unit)
            for first, count in _join(changed, max(1, GAP_ELEMENTS // (t.cols * unit))):
                first, stop = first * unit, min((first + count) * unit, rows)
                yield _Rows(number, first, stop - first, Coding.DELTA, old.dtype, band)
        if rows < t.rows:
            yield _Rows(number, rows, t.rows - rows, Coding.ALONE, "", 0)

    def _compare(self, t: Tensor, old: Tensor, rows: int) -> tuple[np.ndarray, int]:
        """Numbers of the rows that differ, and how many elements do."""
        found = []
        differing = 0
        step = max(1, LOOK // (t.cols * t.item))
        for first in range(0, rows, step):
            begin, elems = t.span(first, min(step, rows - first))
            a, b = (scratch.view(elems * t.item) for scratch in (self._mine, self._theirs))
            self._new.read_into(t.file, t.offset + begin * t.item, a)
            self._old.read_into(old.file, old.offset + begin * t.item, b)
            unequal = _unequal(a, b, t.item)
            if some := int(np.count_nonzero(unequal)):
                differing += some
                found.append(first + _rows_with(unequal, t.cols))
        return np.concatenate(found) if found else np.empty(0, np.int64), differing


class Comparer:
    """Compares a version with its parent.

    Args:
        new: The version.
        old: The parent.
        map: Which tensor and file comes from which.
        chunk_elements: Most elements of a chunk, unless little of them changed.
        engine: Compares the tensors.

    Attributes:
        map: The same without pairs that have nothing in common.
    """

    def __init__(
        self,
        new: StoredModel,
        old: StoredModel,
        map: Map,  # noqa: A002 - its name in index
        chunk_elements: int,
        engine: Engine,
    ) -> None:
        self._new, self._old = new, old
        self._most = chunk_elements
        self._engine = engine
        self.map = map

    def changes(self) -> Iterator[Change]:
        """All chunks: carried bytes first, then tensors in the order of a forward pass.

        Raises:
            DiskError, StoreError, IntegrityError: A file cannot be read.
        """
        yield from self._carried()
        tensors = self._new.tensors
        order = sorted(
            (n for n, t in enumerate(tensors) if t.length),
            key=lambda n: (forward_key(tensors[n].name), n),
        )
        work = RowComparison(self._new, self._old, self.map, self._most)
        groups: dict[tuple[str, int, Coding, str, int], list[_Rows]] = {}
        with closing(self._engine.run(work, order, BUDGET)) as results:
            for number, found in results:
                t = tensors[number]
                for rows in found:
                    kind = t.dtype, t.item, rows.coding, rows.dtype, rows.band
                    groups.setdefault(kind, []).append(rows)
        for (dtype, item, coding, source, band), rows_ in groups.items():
            most = SPARSE_ELEMENTS if coding is Coding.DELTA and band else self._most
            how = Treatment.FULL if dtype in PROGRESSIVE else Treatment.OPAQUE
            block = BLOCKS[source][0] if coding is Coding.ADOPT else block_bytes(dtype) or 1
            for segs, elems in self._chunks(rows_, most, block):
                job = Job(how, dtype, item, segs, elems)
                yield Change(job, coding, source, band)

    def _chunks(
        self, rows: Sequence[_Rows], most: int, block: int
    ) -> Iterator[tuple[tuple[Seg, ...], int]]:
        """Segments with about as many elements together; large ones are cut, between blocks."""
        group: list[Seg] = []
        total = 0
        for some in rows:
            t = self._new.tensors[some.number]
            unit = _unit(t, block)
            per = max(1, most // (t.cols * unit)) * unit
            first, stop = some.first, some.first + some.count
            count = -(-some.count // per)
            cuts = [first + some.count * k // count // unit * unit for k in range(count)]
            for begin, end in pairwise([*dict.fromkeys(cuts), stop]):
                elems = t.span(begin, end - begin)[1]
                if group and total + elems > most:
                    yield tuple(group), total
                    group, total = [], 0
                group.append(Seg(some.number, begin, end - begin))
                total += elems
        if group:
            yield tuple(group), total

    def _carried(self) -> Iterator[Change]:
        """Bytes outside of tensors that the parent's file does not have in the same place."""
        group: list[Piece] = []
        size = 0
        for piece in self._differing():
            if group and size + piece.size > (GAPS if piece.size <= GAPS else MAX_PIECE):
                yield _carry(group)
                group, size = [], 0
            group.append(piece)
            size += piece.size
        if group:
            yield _carry(group)

    def _differing(self) -> Iterator[Piece]:
        for gap in self.gaps():
            other = self.map.files[gap.file]
            end = 0 if other is None else self._old.files[other].size
            run: Piece | None = None
            for at in range(gap.offset, gap.offset + gap.size, LOOK_CARRIED):
                size = min(LOOK_CARRIED, gap.offset + gap.size - at)
                same = other is not None and at + size <= end
                if same:
                    assert other is not None
                    mine = self._new.read(gap.file, at, size)
                    same = mine == self._old.read(other, at, size)
                if same or (run is not None and run.size + size > MAX_PIECE):
                    if run is not None:
                        yield run
                    run = None
                if not same:
                    run = Piece(
                        gap.file, run.offset if run else at, (run.size if run else 0) + size
                    )
            if run is not None:
                yield run

    def gaps(self) -> Iterator[Piece]:
        """The runs of bytes that belong to no tensor."""
        starts: list[list[tuple[int, int]]] = [[] for _ in self._new.files]
        for t in self._new.tensors:
            starts[t.file].append((t.offset, t.offset + t.length))
        for number, file in enumerate(self._new.files):
            covered = 0
            for start, end in [*sorted(starts[number]), (file.size, file.size)]:
                if start > covered:
                    yield Piece(number, covered, start - covered)
                covered = max(covered, end)


def block_bytes(dtype: str) -> int:
    """Bytes of a quantised type's block; 0 if it has none, or none that pays."""
    return _BLOCK_BYTES.get(dtype, 0)


def _unequal(a: memoryview, b: memoryview, item: int) -> np.ndarray:
    """A mask of the elements that differ."""
    if item in (1, 2, 4, 8):
        return np.asarray(np.frombuffer(a, f"<u{item}") != np.frombuffer(b, f"<u{item}"))
    unequal = np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8)
    return np.asarray(unequal.reshape(-1, item).any(axis=1))


def _rows_with(flags: np.ndarray, cols: int) -> np.ndarray:
    """Numbers of the rows that have a flag set; the last row may be shorter."""
    whole = len(flags) // cols
    rest = flags[whole * cols :]
    rows = flags[: whole * cols].reshape(whole, cols).any(axis=1)
    return np.flatnonzero(np.append(rows, rest.any()))


def _carry(pieces: Iterable[Piece]) -> Change:
    some = tuple(pieces)
    large = sum(piece.size for piece in some) > GAPS
    return Change(Job(Treatment.OPAQUE, "", 1, (), 0, some, large), Coding.ALONE)


def _join(numbers: np.ndarray, gap: int) -> Iterator[tuple[int, int]]:
    """Runs ``(first, count)`` of sorted numbers; those at most ``gap`` apart are one."""
    if not len(numbers):
        return
    breaks = np.flatnonzero(np.diff(numbers) > gap + 1) + 1
    for run in np.split(numbers, breaks):
        yield int(run[0]), int(run[-1] - run[0]) + 1


def _unit(t: Tensor, block: int) -> int:
    """The fewest rows of a tensor that are whole blocks."""
    return block // int(np.gcd(block, t.cols))


def _whole(t: Tensor, rows: int, block: int, most: int) -> int:
    """Rows from the first on, at most so many, whose elements are whole blocks that fit a chunk."""
    if _unit(t, block) * t.cols > most:
        return 0
    if rows == t.rows and t.elems % block == 0:
        return rows
    unit = _unit(t, block)
    return rows // unit * unit
