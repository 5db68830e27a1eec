"""Stage an update between releases whose files, or the tensors' places in them, differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2u.client.live.memory import ModelMemory, allocate
from p2u.client.live.places import Placed, Ranges, later_places, same_files
from p2u.client.live.staging.chained import ChainedUpdate
from p2u.client.live.staging.copied import copy, merge
from p2u.client.routes.pairing import pair_tensors
from p2u.client.transfer.bundles import Bundle
from p2u.codec.chunk import ChunkDecoding, UpdateEnds
from p2u.package.geometry import Piece, Span, all_spans
from p2u.package.index import Index
from p2u.package.layout import ReleaseLayout
from p2u.package.manifest import Update
from p2u.package.mapping import Map, copies, identity, source_spans


@dataclass(frozen=True, slots=True)
class Origin:
    """The release that an update begins at, and the memory of its bytes."""

    placed: Placed
    regions: Mapping[int, memoryview]


class MovedUpdate(ChainedUpdate):
    """An update whose bytes come from other places than those that they go to.

    The update's map names the places; tensors that stay the same stay where they are.

    Args:
        origin: The release that it begins at; None for nothing.
        index: Of the update.
        before: What the updates before have brought.
        options: The arguments of `ChainedUpdate`.
    """

    def __init__(
        self, *, origin: Origin | None, index: Index, before: Ranges, **options: Any
    ) -> None:
        self._origin, self._earlier = origin, before
        target: Placed = options["target"]
        source = None if origin is None else origin.placed.model
        self._ends = UpdateEnds(target.model, source, index.map or identity(target.model))
        super().__init__(before=before, **options)

    def begin(self) -> None:
        """See `StagedUpdate.begin`; copies what no bundle brings."""
        super().begin()
        (update,) = self.stretch.updates
        self._old: Mapping[int, memoryview] = self._spare
        if self._origin is None:
            return
        chunks = [bundle.chunks[0] for bundle in self.bundles]
        layout = self.target.model.layout
        found = copies(
            all_spans(chunks, layout), self._ends.map, self.target.model,
            self._origin.placed.model, update.index.key,
        )  # fmt: skip
        moves = [
            move
            for c in found
            for move in self._moves(
                Span(c.file, c.offset, c.size), Span(c.source_file, c.source_offset, c.size)
            )
        ]
        if self._crosses(moves):
            # The updates before have brought bytes that this one reads and replaces.
            self._old = self._snapshot()
        own = [(n, a, b - a) for n, ranges in self._ranges.items() for a, b in ranges]
        self._ranges = merge([*own, *((to.file, to.offset, to.size) for to, _ in moves)])
        self._spare = self.files.spare(self._ranges)
        for to, source in moves:
            self._fill(self._spare[to.file][to.offset : to.offset + to.size], source)

    def _moves(self, to: Span, source: Span) -> Iterator[tuple[Span, Span]]:
        """Pairs of places in memory, of some bytes of a file, that are not the same place."""
        assert self._origin is not None
        own = self._origin.regions is self.files.regions
        at = to.offset
        for part in self._origin.placed.places.find(source.file, source.offset, source.size):
            skip = part.offset
            for place in self.target.places.find(to.file, at, part.size):
                if not own or (place.file, place.offset) != (part.file, skip):
                    yield place, Span(part.file, skip, place.size)
                skip += place.size
            at += part.size

    def _crosses(self, moves: Sequence[tuple[Span, Span]]) -> bool:
        """Whether it reads from another place what the updates before have brought."""
        if not self._earlier:
            return False
        assert self._origin is not None
        source, ends = self._origin.placed, self._ends
        for bundle in self.bundles:
            chunk = bundle.chunks[0]
            found = source_spans(chunk, ends.map, ends.target, source.model)
            for to, span in zip(self.spans(bundle), found, strict=False):
                if span is None:
                    continue
                place = source.places.span(span)
                same = (place.file, place.offset) == (to.file, to.offset)
                if not same and place.file in self._earlier:
                    return True
        return any(place.file in self._earlier for _, place in moves)

    def _snapshot(self) -> dict[int, memoryview]:
        """The bytes that the updates before have brought."""
        found = {}
        for region, ranges in self._earlier.items():
            found[region] = allocate(len(self._spare[region]))
            for start, end in ranges:
                copy(found[region][start:end], self._spare[region][start:end])
        return found

    def _fill(self, out: memoryview, place: Span) -> None:
        """Read some bytes of the origin at their place in memory."""
        at = 0
        for piece in self._pieces(place):
            copy(out[at : at + len(piece)], piece)
            at += len(piece)

    def _pieces(self, place: Span) -> Iterator[memoryview]:
        assert self._origin is not None
        live, at, end = self._origin.regions[place.file], place.offset, place.offset + place.size
        for first, last in self._earlier.get(place.file, ()):
            if last <= at or first >= end:
                continue
            yield live[at:first]
            yield self._old[place.file][max(at, first) : min(last, end)]
            at = last
        yield live[at:end]

    def take(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """See `StagedUpdate.take`."""
        (update,) = self.stretch.updates
        chunk = bundle.chunks[0]
        decoding = ChunkDecoding(chunk, payloads[0], self._ends, update.blobs[chunk.blob].key)
        found = decoding.run(memoryview(bytearray(decoding.memory)), self._read)
        for span, buffer in zip(self.spans(bundle), found, strict=True):
            copy(self._spare[span.file][span.offset : span.offset + span.size], buffer)

    def _read(self, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        """See `codec.chunk.Read`."""
        assert self._origin is not None
        for span, buffer in zip(spans, buffers, strict=True):
            at = 0
            for place in self._origin.placed.places.find(span.file, span.offset, span.size):
                self._fill(buffer[at : at + place.size], place)
                at += place.size


def cross(
    files: ModelMemory, update: Update, index: Index, target: Placed, **options: Any
) -> ChainedUpdate:
    """The staging of one update into memory.

    Args:
        files: The memory.
        update: The update.
        index: Of the update.
        target: Its target, see `place`.
        options: Further arguments of `MovedUpdate`.
    """
    origin: Origin | None = options.pop("origin")
    same = origin is None and target.places is files.here.places
    if origin is not None:
        same = origin.regions is files.regions and target.places is origin.placed.places
    if same and (index.map is None or index.map == identity(target.model)):
        return ChainedUpdate(files, target, update, **options)
    return MovedUpdate(
        files=files, target=target, update=update, index=index, origin=origin, **options
    )


def place(files: ModelMemory, model: ReleaseLayout, origin: Placed | None, index: Index) -> Placed:
    """The places of a release that takes the place of another one, or is on the way to it.

    Tensors that the memory does not have get regions, like the bytes between tensors.

    Args:
        files: The memory; it gets regions for bytes that are new.
        model: The release.
        origin: The release that the update begins at.
        index: Of the update.
    """
    for known in (origin, files.here):
        if known is not None and same_files(known.model, model):
            return Placed(model, known.places)
    known_as = files.here.places.tensors
    pairs = pair_tensors(files.here.model, model)
    tensors = [None if number is None else known_as[number] for number in pairs]
    pieces = [piece for chunk in index.chunks for piece in chunk.pieces]

    def between(file: int, offset: int, size: int) -> tuple[int, int]:
        wanted = Piece(file, offset, size)
        kept = None if _has_tensor(model, wanted) else _kept(origin, index.map, wanted, pieces)
        return kept or (files.add_region(size), 0)

    return Placed(model, later_places(files.first, model, tensors, between))


def _has_tensor(model: ReleaseLayout, part: Piece) -> bool:
    """Whether bytes of a file belong to a tensor, in whole or in part."""
    end = part.offset + part.size
    return any(
        t.file == part.file and t.offset < end and t.offset + t.length > part.offset
        for t in model.tensors
    )


def _kept(
    origin: Placed | None, found: Map | None, wanted: Piece, pieces: Sequence[Piece]
) -> tuple[int, int] | None:
    """The place in memory of bytes between tensors that stay as they are; None if they change."""
    other = None if found is None else found.files[wanted.file]
    if origin is None or other is None:
        return None
    end = wanted.offset + wanted.size
    if end > origin.model.files[other].size:
        return None
    covering = [(t.offset, t.length) for t in origin.model.tensors if t.file == other]
    covering += [(p.offset, p.size) for p in pieces if p.file == wanted.file]
    if any(at < end and at + size > wanted.offset for at, size in covering):
        return None
    places = list(origin.places.find(other, wanted.offset, wanted.size))
    return (places[0].file, places[0].offset) if len(places) == 1 else None
