"""The index, ``<label>.index``: what each chunk of an update is, in about 40 bytes per chunk.

Layout: ``"P2UI"``, a version byte, a byte that is 1 if there is a map, else 0, the map, varint
number of chunks; then per chunk a type byte, varint length of its payload, 32 bytes SHA-256 of it,
and

- type 0, rows: varint number of segments; per segment the zigzag varint tensor number minus that
  of the index's previous segment (0 at first), varint first row, varint number of rows;
- type 1, bytes of a file that belong to no tensor: varint file, varint offset, varint size. The
  payload is one zstd frame;
- type 2, the same in several places: varint number of places >= 2; per place varint file minus
  that of the place before, varint offset minus the end of the place before (in another file: the
  offset), varint size. The payload is one zstd frame of all of them, back to back.

Chunks lie back to back in the update's blobs; none crosses from one blob to the next.

Updates between two releases have a map, and no others: varint source + 1 (0: none) for each tensor
of the target, then for each of its files. See `mapping`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from p2u.errors import FormatError
from p2u.package.geometry import Chunk, Piece, Seg, all_spans
from p2u.package.layout import MAX_ELEMENTS, Contents, decompress
from p2u.package.manifest import HINT, Update
from p2u.package.mapping import Map, copies

MAGIC = b"P2UI"
VERSION = 1
ROWS, BYTES, PLACES = 0, 1, 2

#: Limits per chunk, in bytes: decoded, carried in pieces, and of the payload.
MAX_DECODED = 64 << 20
MAX_PIECE = 4 << 20
MAX_PAYLOAD = 128 << 20

#: Fewest bytes that a chunk and a segment take, to check counts before anything is allocated.
_LEAST_CHUNK = 1 + 1 + 32 + 3
_LEAST_SEGMENT = 3
_LEAST_PLACE = 3


@dataclass(frozen=True, slots=True)
class Index:
    """The chunks of an update, and its map.

    Attributes:
        chunks: In order of their place in the blobs. Those of an update from nothing cover every
            byte of every file exactly once, those of others no byte twice.
        map: Where bytes come from that no chunk brings, and what the chunks' elements correspond
            to; None unless the update leads from one release to another.
    """

    chunks: tuple[Chunk, ...]
    map: Map | None = None


def decode_pieces(payload: bytes | memoryview, pieces: Sequence[Piece], key: str) -> bytes:
    """The bytes of a chunk's pieces, back to back, from its payload.

    Raises:
        FormatError: The payload is malformed or of another size; ``key`` is for the message.
    """
    size = sum(piece.size for piece in pieces)
    data = decompress(payload, size, key)
    if len(data) != size:
        raise FormatError(f"a piece has {len(data)} bytes, {size} expected", file=key, hint=HINT)
    return data


def encode_index(chunks: Iterable[Chunk], found: Map | None = None) -> bytes:
    """The index of these chunks. Their number, blob and start follow from order and length.

    Args:
        chunks: All of the update.
        found: The map, between two releases.
    """
    chunks = list(chunks)
    out = bytearray(MAGIC)
    out += bytes((VERSION, found is not None))
    if found is not None:
        for source in (*found.tensors, *found.files):
            _put(out, 0 if source is None else source + 1)
    _put(out, len(chunks))
    last = 0
    for chunk in chunks:
        out.append((BYTES if len(chunk.pieces) == 1 else PLACES) if chunk.pieces else ROWS)
        _put(out, chunk.length)
        out += chunk.sha256
        if chunk.pieces:
            _put_pieces(out, chunk.pieces)
            continue
        _put(out, len(chunk.segments))
        for seg in chunk.segments:
            step = seg.tensor - last
            last = seg.tensor
            _put(out, 2 * step if step >= 0 else -2 * step - 1)
            _put(out, seg.first_row)
            _put(out, seg.rows)
    return bytes(out)


def _put_pieces(out: bytearray, pieces: Sequence[Piece]) -> None:
    if len(pieces) > 1:
        _put(out, len(pieces))
    file = at = 0
    for piece in pieces:
        if piece.file != file:
            at = 0
        for value in (piece.file - file, piece.offset - at, piece.size):
            _put(out, value)
        file, at = piece.file, piece.offset + piece.size


def _put(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


class _IndexReader:
    """A cursor over the index that never runs over its end."""

    def __init__(self, data: bytes, key: str) -> None:
        self._data = data
        self._at = 0
        self._key = key

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def wrong(self, message: str) -> FormatError:
        return FormatError(message, file=self._key, hint=HINT)

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise self.wrong("it ends before its content does")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        """An integer below 2**56."""
        value = 0
        for shift in range(0, 56, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break  # one way only to write a number: equal indices are equal bytes
                return value
        raise self.wrong("a number is malformed")

    def count(self, what: str, least: int) -> int:
        """A number of things that take at least ``least`` bytes each."""
        value = self.varint()
        if value * least > self.left:
            raise self.wrong(f"it states {value} {what}, more than it has room for")
        return value


def parse_index(
    data: bytes, update: Update, target: Contents, source: Contents | None = None
) -> Index:
    """Parse and validate the index of an update.

    Args:
        data: The object ``update.index``, its digest checked by the caller.
        update: One of a manifest's.
        target: The release that it leads to.
        source: The release that it begins at, if that is another one.

    Raises:
        FormatError: It is malformed or does not fit the releases.
    """
    r = _IndexReader(data, update.index.key)
    if r.take(len(MAGIC)) != MAGIC:
        raise r.wrong("not an index of a P2U package")
    if (version := r.byte()) != VERSION:
        raise r.wrong(f"an index of version {version}, {VERSION} expected")
    if (mapped := r.byte()) != (source is not None):
        raise r.wrong(f"its map flag is {mapped}, {int(source is not None)} expected")
    found = None if source is None else _map(r, target, source)
    chunks = _chunks(r, update, target)
    _check_pieces(r, chunks, target)
    if update.source is None:
        _check_complete(r, chunks, target)
    else:
        _check_disjoint(r, chunks)
    if source is not None and found is not None:
        copies(all_spans(chunks, target.layout), found, target, source, update.index.key)
    return Index(tuple(chunks), found)


def _map(r: _IndexReader, target: Contents, source: Contents) -> Map:
    def numbers(what: str, count: int, most: int) -> tuple[int | None, ...]:
        out: list[int | None] = []
        for number in range(count):
            value = r.varint()
            if value > most:
                raise r.wrong(f"it maps {what} {number} to {value - 1} of {most}")
            out.append(value - 1 if value else None)
        return tuple(out)

    tensors = numbers("tensor", len(target.tensors), len(source.tensors))
    return Map(tensors, numbers("file", len(target.files), len(source.files)))


def _chunks(r: _IndexReader, update: Update, model: Contents) -> list[Chunk]:
    count = r.count("chunks", _LEAST_CHUNK)
    if count != update.chunks:
        raise r.wrong(f"it has {count} chunks, the manifest states {update.chunks}")
    chunks = []
    blob = start = last = 0
    for number in range(count):
        kind, length, sha256 = r.byte(), r.varint(), r.take(32)
        if not 1 <= length <= MAX_PAYLOAD:
            raise r.wrong(f"chunk {number} has {length} bytes, 1 to {MAX_PAYLOAD} are allowed")
        if blob < len(update.blobs) and start == update.blobs[blob].size:
            blob, start = blob + 1, 0
        if blob == len(update.blobs) or start + length > update.blobs[blob].size:
            raise r.wrong(f"chunk {number} does not fit the sizes of the blobs")
        segments: tuple[Seg, ...] = ()
        pieces: tuple[Piece, ...] = ()
        if kind == ROWS:
            segments = _segments(r, number, last, model)
            last = segments[-1].tensor
        elif kind in (BYTES, PLACES):
            pieces = _pieces(r, number, model, several=kind == PLACES)
        else:
            raise r.wrong(f"chunk {number} has type {kind}, which is not known")
        chunks.append(Chunk(number, blob, start, length, sha256, segments, pieces))
        start += length
    if r.left:
        raise r.wrong(f"{r.left} bytes follow its last chunk")
    if update.blobs and (blob, start) != (len(update.blobs) - 1, update.blobs[-1].size):
        raise r.wrong("the blobs are longer than their chunks")
    return chunks


def _segments(r: _IndexReader, number: int, last: int, model: Contents) -> tuple[Seg, ...]:
    segments = []
    elems = 0
    kind = None
    for _ in range(r.count("segments", _LEAST_SEGMENT)):
        step = r.varint()
        last += step // 2 if step % 2 == 0 else -(step // 2) - 1
        if not 0 <= last < len(model.tensors):
            raise r.wrong(f"chunk {number} is of tensor {last} of {len(model.tensors)}")
        tensor = model.tensors[last]
        first, rows = r.varint(), r.varint()
        if rows < 1 or first + rows > tensor.rows:
            raise r.wrong(
                f"chunk {number} holds rows {first} to {first + rows} of tensor "
                f"{tensor.name[:200]!r}, which has {tensor.rows}"
            )
        if kind not in (None, (tensor.dtype, tensor.item)):
            raise r.wrong(f"chunk {number} mixes tensors of different dtypes")
        kind = tensor.dtype, tensor.item
        elems += tensor.span(first, rows)[1]
        if elems > MAX_ELEMENTS or elems * tensor.item > MAX_DECODED:
            raise r.wrong(f"chunk {number} has more than {MAX_ELEMENTS} elements")
        segments.append(Seg(last, first, rows))
    if not segments:
        raise r.wrong(f"chunk {number} is empty")
    return tuple(segments)


def _pieces(r: _IndexReader, number: int, model: Contents, *, several: bool) -> tuple[Piece, ...]:
    count = r.count("places", _LEAST_PLACE) if several else 1
    if count < 1 + several:
        raise r.wrong(f"chunk {number} states {count} places, two or more are expected")
    pieces = []
    file = at = total = 0
    for _ in range(count):
        step, offset, size = r.varint(), r.varint(), r.varint()
        if step:
            file, at = file + step, 0
        offset += at
        total += size
        if (
            file >= len(model.files)
            or size < 1
            or total > MAX_PIECE
            or offset + size > model.files[file].size
        ):
            raise r.wrong(f"chunk {number} holds bytes that do not exist or are too many")
        pieces.append(Piece(file, offset, size))
        at = offset + size
    return tuple(pieces)


def _check_pieces(r: _IndexReader, chunks: Iterable[Chunk], model: Contents) -> None:
    """Raise FormatError if pieces overlap each other or a tensor."""
    pieces = sorted((p.file, p.offset, p.offset + p.size) for c in chunks for p in c.pieces)
    for (file, _, end), (other, start, _) in pairwise(pieces):
        if file == other and end > start:
            raise r.wrong(f"{model.files[file].path}: byte {start} appears twice")
    tensors = [(t.file, t.offset, t.offset + t.length) for t in model.tensors if t.length]
    for file, start, end in pieces:
        # Of the tensors, which do not overlap, only the last that begins before the piece's end.
        at = bisect_left(tensors, (file, end)) - 1
        if at >= 0 and tensors[at][0] == file and tensors[at][2] > start:
            raise r.wrong(
                f"{model.files[file].path}: bytes {start} to {end} are carried, "
                "but belong to a tensor"
            )


def _check_disjoint(r: _IndexReader, chunks: Iterable[Chunk]) -> None:
    """Raise FormatError if two chunks, or one twice, hold the same row."""
    rows = sorted((s.tensor, s.first_row, s.rows) for c in chunks for s in c.segments)
    for (tensor, first, count), (other, second, _) in pairwise(rows):
        if tensor == other and first + count > second:
            raise r.wrong(f"row {second} of tensor number {tensor} appears twice")


def _check_complete(r: _IndexReader, chunks: Iterable[Chunk], model: Contents) -> None:
    """Raise FormatError unless the chunks tile all files."""
    spans = sorted(all_spans(chunks, model.layout), key=lambda span: (span.file, span.offset))
    at = 0
    for file, entry in enumerate(model.files):
        covered = 0
        while at < len(spans) and spans[at].file == file:
            if spans[at].offset != covered:
                raise r.wrong(f"{entry.path}: byte {covered} is missing or appears twice")
            covered += spans[at].size
            at += 1
        if covered != entry.size:
            raise r.wrong(f"{entry.path}: the chunks hold {covered} of {entry.size} bytes")
