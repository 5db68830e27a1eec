"""A state of a package on the local disk, decoded: what a new version is compared with.

The client's `pull` does more (links, resuming, locking) and lies in another layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2u.codec import core
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.files import read_from
from p2u.errors import FormatError, IntegrityError
from p2u.formats import ScannedModel as Files
from p2u.package.geometry import Chunk, all_spans
from p2u.package.graph import find_path
from p2u.package.index import Index, decode_pieces, parse_index
from p2u.package.layout import Layout, ReleaseLayout, parse_layout
from p2u.package.manifest import Manifest, Object, Release, State, Update
from p2u.package.mapping import CopiedRange, copies, source_bytes
from p2u.packing.chunking.pool import in_order
from p2u.packing.chunking.source import Source
from p2u.types import ModelFile

#: Bytes copied or hashed at once, and of all chunks under way.
PIECE, BUDGET = 4 << 20, 256 << 20


def read_object(folder: Path, wanted: Object) -> bytes:
    """A file of a package that has a digest.

    Raises:
        DiskError, IntegrityError: It cannot be read, or is another one.
    """
    path = folder / wanted.key
    with disk_errors(path, "read"), open(path, "rb") as stream:
        data = stream.read(wanted.size + 1)
    if len(data) != wanted.size or hashlib.sha256(data).hexdigest() != wanted.sha256:
        raise IntegrityError(
            "it is not the file that the manifest states",
            file=str(path),
            hint="The package is damaged: check it with `p2u verify`, and publish it anew",
        )
    return data


def read_layout(folder: Path, release: Release) -> Layout:
    """The layout of a release; raises as `read_object`, and FormatError."""
    return parse_layout(read_object(folder, release.layout), release)


def hash_files(source: Source, jobs: int) -> list[str]:
    """SHA-256 of each file in hex.

    Raises:
        DiskError, IntegrityError: One cannot be read, or became shorter.
    """

    def one(number: int) -> str:
        digest = hashlib.sha256()
        size = source.files[number].size
        for at in range(0, size, PIECE):
            digest.update(source.read(number, at, min(PIECE, size - at)))
        return digest.hexdigest()

    numbers = range(len(source.files))
    return [found for _, found in in_order(numbers, one, lambda _: PIECE, jobs, BUDGET)]


@dataclass(frozen=True, slots=True)
class _Held:
    """The files of a release in a folder."""

    model: ReleaseLayout
    source: Source
    folder: Path

    def write(self, file: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        path = self.folder / self.model.files[file].path
        with disk_errors(path, "write", UNPUBLISHED), open(path, "r+b", buffering=0) as stream:
            stream.seek(offset)
            view = memoryview(data)
            while view:
                view = view[stream.write(view) :]


class Decoder:
    """Decodes states of a package.

    Args:
        package: Its folder.
        manifest: Its manifest.
        jobs: Threads.
    """

    def __init__(self, package: Path, manifest: Manifest, jobs: int) -> None:
        self._package = package
        self._manifest = manifest
        self._jobs = jobs

    def materialise(self, state: State, folder: Path) -> Path:
        """Write all files of a state.

        Args:
            state: One that can be reached from nothing.
            folder: An empty folder to work in.

        Returns:
            The folder within it that has the files.

        Raises:
            UsageError: No updates lead to the state from nothing.
            IntegrityError, FormatError: The package is damaged.
            DiskError: It cannot be read, or the files cannot be written.
        """
        held: _Held | None = None
        for update in find_path(self._manifest.updates, None, state.id):
            release = self._manifest.release(update.target)
            if held is None or held.model.release is not release:
                held = self._cross(update, release, held, folder / release.version)
            else:
                index = self._index(update, held.model, None)
                self._run(update, index, held, None)
        assert held is not None
        self._check(state, held)
        return held.folder

    def _index(self, update: Update, target: ReleaseLayout, source: ReleaseLayout | None) -> Index:
        return parse_index(read_object(self._package, update.index), update, target, source)

    def _cross(self, update: Update, release: Release, old: _Held | None, folder: Path) -> _Held:
        """The files of another release, from those of one before or from nothing."""
        layout = read_layout(self._package, release)
        with disk_errors(folder, "write", UNPUBLISHED):
            for entry in release.files:
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as stream:
                    stream.truncate(entry.size)
        files = tuple(ModelFile(f.path, f.size) for f in release.files)
        new = _Held(ReleaseLayout(release, layout), Source(Files(str(folder), files)), folder)
        index = self._index(update, new.model, old.model if old else None)
        if old is not None and index.map is not None:
            covered = all_spans(index.chunks, new.model.layout)
            found = copies(covered, index.map, new.model, old.model, update.index.key)
            for copy in _cut(found):
                data = old.source.read(copy.source_file, copy.source_offset, copy.size)
                new.write(copy.file, copy.offset, data)
        self._run(update, index, new, old)
        if old is not None:
            with disk_errors(old.folder, "write", UNPUBLISHED):
                for entry in old.model.files:
                    (old.folder / entry.path).unlink()
        return new

    def _run(self, update: Update, index: Index, held: _Held, old: _Held | None) -> None:
        def work(chunk: Chunk) -> None:
            payload = self._payload(update, chunk)
            for file, offset, data in _apply(payload, chunk, index, held, old, update):
                held.write(file, offset, data)

        for _ in in_order(index.chunks, work, _cost(held.model), self._jobs, BUDGET):
            pass  # all is in what `work` writes

    def _payload(self, update: Update, chunk: Chunk) -> bytes:
        path = self._package / update.blobs[chunk.blob].key
        out = bytearray(chunk.length)
        with disk_errors(path, "read"):
            count = read_from(path, chunk.start, memoryview(out))
        if count < len(out) or hashlib.sha256(out).digest() != chunk.sha256:
            raise IntegrityError(
                f"chunk {chunk.number} is damaged",
                file=str(path),
                hint="Check the package with `p2u verify`, and publish it anew",
            )
        return bytes(out)

    def _check(self, state: State, held: _Held) -> None:
        number = held.model.release.number(state)
        found = hash_files(held.source, self._jobs)
        for entry, digest in zip(held.model.files, found, strict=True):
            if digest != entry.digest(number):
                raise IntegrityError(
                    f"what is decoded for {state.id} has SHA-256 {digest}, expected "
                    f"{entry.digest(number)}",
                    file=entry.path,
                    hint="The package is damaged: publish it anew",
                )


def _cost(model: ReleaseLayout) -> Callable[[Chunk], int]:
    def cost(chunk: Chunk) -> int:
        return chunk.length + 3 * sum(span.size for span in all_spans([chunk], model.layout))

    return cost


def _cut(found: Sequence[CopiedRange]) -> Iterator[CopiedRange]:
    """Copies of a few MiB each."""
    for c in found:
        for at in range(0, c.size, PIECE):
            size = min(PIECE, c.size - at)
            yield CopiedRange(c.file, c.offset + at, c.source_file, c.source_offset + at, size)


def _apply(
    payload: bytes, chunk: Chunk, index: Index, held: _Held, old: _Held | None, update: Update
) -> Iterator[tuple[int, int, bytes | memoryview]]:
    """What a chunk brings: file, offset, bytes."""
    if chunk.pieces:
        data = decode_pieces(payload, chunk.pieces, update.blobs[chunk.blob].key)
        at = 0
        for piece in chunk.pieces:
            yield piece.file, piece.offset, data[at : at + piece.size]
            at += piece.size
        return
    spots, segments, sources = [], [], []
    for seg in chunk.segments:
        t = held.model.tensors[seg.tensor]
        first, elems = t.span(seg.first_row, seg.rows)
        offset = t.offset + first * t.item
        if update.source is None or old is not None:
            memory = bytearray(elems * t.item)
        else:
            memory = held.source.read(t.file, offset, elems * t.item)
        spots.append((t.file, offset, memoryview(memory)))
        segments.append(core.Segment(memory, elems, t.cols))
        sources.append(_source(index, held, old, seg.tensor, first, elems))
    kind = held.model.tensors[chunk.segments[0].tensor]
    try:
        core.apply(
            payload, kind.dtype, kind.item, segments, sources=None if old is None else sources
        )
    except FormatError as error:
        key = update.blobs[chunk.blob].key
        raise FormatError(error.message, file=key, tensor=kind.name, hint=error.hint) from error
    yield from spots


def _source(
    index: Index, held: _Held, old: _Held | None, tensor: int, first: int, elems: int
) -> bytearray | None:
    pair = index.map.tensors[tensor] if old is not None and index.map is not None else None
    if old is None or pair is None:
        return None
    t = old.model.tensors[pair]
    found = source_bytes(held.model.tensors[tensor], t, first, elems)
    return None if found is None else old.source.read(t.file, t.offset + found[0], found[1])
