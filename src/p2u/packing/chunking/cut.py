"""Cut a model into chunks, and order them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2u.formats import ScannedModel
from p2u.names.order import forward_key
from p2u.package.geometry import Piece, Seg
from p2u.package.index import MAX_PIECE
from p2u.package.layout import Layout, Tensor
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment, item_size, row_length, treatment
from p2u.types import TensorSpan

#: Opaque tensors up to this many bytes come first, with the norms and biases.
SMALL_OPAQUE = 64 << 10
#: Bytes of a checksum.
FIELD = 4
#: Bytes between two tensors that get a chunk of their own, and most bytes of those that do not
#: in one chunk: a file may have thousands of short ones.
SMALL_GAP, GAPS = 64 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Grade:
    """A tensor's treatment and offset; only tensors of one grade share a chunk.

    Attributes:
        how: Whether and where it has levels.
        band: How coarse it is, roughly: unlike tensors would spoil each other's tables.
    """

    how: Treatment
    band: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One chunk to make, for all updates at once: rows, or pieces of files.

    Attributes:
        how: How the rows are coded.
        dtype: That of all its tensors; empty for pieces.
        item: Bytes per element.
        segments: The rows; empty for pieces.
        elems: Elements of all segments.
        pieces: The pieces.
        large: The pieces are of a large run of bytes.
    """

    how: Treatment
    dtype: str
    item: int
    segments: tuple[Seg, ...]
    elems: int
    pieces: tuple[Piece, ...] = ()
    large: bool = False

    @property
    def size(self) -> int:
        """Bytes of the source."""
        return sum(p.size for p in self.pieces) + self.elems * self.item

    @property
    def progressive(self) -> bool:
        """Whether it is meant to have levels."""
        return not self.pieces and self.how is Treatment.PROGRESSIVE


def make_layout(model: ScannedModel, kept: Callable[[tuple[str, str]], bool]) -> Layout:
    """The tensors of a model with their rows, sorted as a layout is.

    Args:
        model: The model.
        kept: Whether the tensor of this file and name is exact from the base on.
    """
    tensors = [
        _tensor(span, number, kept((file.path, span.name)))
        for number, file in enumerate(model.files)
        for span in file.spans
    ]
    return Layout(tuple(sorted(tensors, key=lambda t: (t.file, t.offset, t.length))))


def _tensor(span: TensorSpan, file: int, keep: bool) -> Tensor:
    item = item_size(span.dtype, span.shape, span.length)
    elems = span.length // item
    cols = row_length(span.shape, elems, treatment(span.dtype, span.shape, elems, keep))
    return Tensor(span.name, span.dtype, span.shape, file, span.offset, span.length, cols, item)


def cut(model: StoredModel, grades: Sequence[Grade], chunk_elements: int) -> list[Job]:
    """All chunks of the base update; those of the refinements are cut alike.

    Args:
        model: The model.
        grades: How each of its tensors is coded.
        chunk_elements: Most elements of a chunk, unless a single row has more.

    First the bytes between the tensors and the small files, then norms, biases and other small
    tensors, then the rest in the order of a forward pass, large carried files at the end. The
    checksums that files keep are in none of them: see `p2u.packing.chunking.checks`.
    """
    small: list[Job] = []
    large: list[Job] = []
    for job in _pieces(model):
        (large if job.large else small).append(job)
    order = sorted(
        (n for n, t in enumerate(model.tensors) if t.length),
        key=lambda n: (forward_key(model.tensors[n].name), n),
    )
    first: list[tuple[int, Tensor, Grade]] = []
    rest: list[tuple[int, Tensor, Grade]] = []
    for number in order:
        t = model.tensors[number]
        plain = treatment(t.dtype, t.shape, t.elems)
        early = plain is Treatment.FULL or (plain is Treatment.OPAQUE and t.length <= SMALL_OPAQUE)
        (first if early else rest).append((number, t, grades[number]))
    return [*small, *_group(first, chunk_elements), *_group(rest, chunk_elements), *large]


class _TensorGroup:
    """Small tensors of a kind, collected for one chunk."""

    def __init__(self) -> None:
        self.segs: list[Seg] = []
        self.elems = 0


def _group(tensors: Iterable[tuple[int, Tensor, Grade]], chunk_elements: int) -> Iterator[Job]:
    """Chunks of tensors: large ones cut, small ones of a kind together, none later than before."""
    # In the order of their first tensors.
    done: list[tuple[Tensor, Treatment, int | _TensorGroup]] = []
    latest: dict[tuple[str, int, Grade], _TensorGroup] = {}
    for number, t, grade in tensors:
        how = grade.how
        if t.elems > chunk_elements:
            done.append((t, how, number))
            continue
        kind = (t.dtype, t.item, grade)
        group = latest.get(kind)
        if group is None or group.elems + t.elems > chunk_elements:
            group = latest[kind] = _TensorGroup()
            done.append((t, how, group))
        group.segs.append(Seg(number, 0, t.rows))
        group.elems += t.elems
    for t, how, found in done:
        if isinstance(found, int):
            yield from _rows(found, t, how, chunk_elements)
        else:
            yield Job(how, t.dtype, t.item, tuple(found.segs), found.elems)


def _rows(number: int, t: Tensor, how: Treatment, chunk_elements: int) -> Iterator[Job]:
    """Nearly equal chunks of a large tensor."""
    most = max(1, chunk_elements // t.cols)
    count = -(-t.rows // most)
    for k in range(count):
        first, stop = t.rows * k // count, t.rows * (k + 1) // count
        elems = t.span(first, stop - first)[1]
        yield Job(how, t.dtype, t.item, (Seg(number, first, stop - first),), elems)


def _pieces(model: StoredModel) -> Iterator[Job]:
    """All bytes of all files that belong to no tensor and are no checksum."""
    taken: list[list[tuple[int, int]]] = [[] for _ in model.files]
    for t in model.tensors:
        taken[t.file].append((t.offset, t.offset + t.length))
    for number, file in enumerate(model.files):
        taken[number] += [(at, at + FIELD) for check in file.checks for at in check.fields]
        group: list[Piece] = []
        covered = size = 0
        for start, end in [*sorted(taken[number]), (file.size, file.size)]:
            gap = start - covered
            if gap > SMALL_GAP:
                yield from _split(number, covered, start)
            elif gap > 0:
                group.append(Piece(number, covered, gap))
                size += gap
                if size > GAPS:
                    yield _carry(*group)
                    group, size = [], 0
            covered = max(covered, end)
        if group:
            yield _carry(*group)


def _split(file: int, start: int, stop: int) -> Iterator[Job]:
    for offset in range(start, stop, MAX_PIECE):
        piece = Piece(file, offset, min(MAX_PIECE, stop - offset))
        yield _carry(piece, large=stop - start > MAX_PIECE)


def _carry(*pieces: Piece, large: bool = False) -> Job:
    return Job(Treatment.OPAQUE, "", 1, (), 0, pieces, large)
