"""Materialise a state of a package: write its files to a folder, to compare a new version with.

The client's `pull` does more (links, resuming, locking) and stands on the other side.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from p2u.codec.chunk import ChunkDecoding, UpdateEnds
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.files import open_file, write_at
from p2u.errors import IntegrityError
from p2u.formats import ScannedModel
from p2u.package.geometry import Chunk, all_spans
from p2u.package.graph import find_path
from p2u.package.index import parse_index
from p2u.package.layout import Layout, parse_layout
from p2u.package.manifest import Manifest, Object, Release, State, Update
from p2u.package.mapping import copies, cut_copies, identity
from p2u.packing.chunking.pool import Scratch, in_order
from p2u.packing.chunking.stored import PIECE, StoredModel
from p2u.packing.engines.file_hashes import BUDGET, file_hashes
from p2u.packing.engines.local import LocalEngine
from p2u.packing.engines.places import FolderPlace
from p2u.packing.levels.read_back import read_payload
from p2u.types import ModelFile

_DAMAGED = "The package is damaged: check it with `p2u verify`, and publish it again"


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
            "it is not the file that the manifest names", file=str(path), hint=_DAMAGED
        )
    return data


def read_layout(folder: Path, release: Release) -> Layout:
    """The layout of a release; raises as `read_object`, and FormatError."""
    return parse_layout(read_object(folder, release.layout), release)


def materialise(
    package: Path, manifest: Manifest, state: State, folder: Path, jobs: int
) -> StoredModel:
    """Write all files of a state.

    Args:
        package: The package's folder.
        manifest: Its manifest.
        state: A state that can be reached from nothing.
        folder: An empty folder to work in.
        jobs: Threads.

    Returns:
        The files, in a folder within it.

    Raises:
        UsageError: No updates lead to the state from nothing.
        IntegrityError, FormatError: The package is damaged.
        DiskError: It cannot be read, or the files cannot be written.
    """
    release: Release | None = None
    model: _Files | None = None
    for update in find_path(manifest.updates, None, state.id):
        before, after = model, manifest.release(update.target)
        if model is None or after is not release:
            model = _Files(folder / after.version, after, read_layout(package, after))
        release = after
        _apply(package, update, before, model, jobs)
        if before is not None and before is not model:
            before.remove()
    assert release is not None
    assert model is not None
    _check(state, release, model, jobs)
    return model


class _Files(StoredModel):
    """The files of a release in a folder of their own, empty at first."""

    def __init__(self, folder: Path, release: Release, layout: Layout) -> None:
        files = tuple(ModelFile(f.path, f.size) for f in release.files)
        super().__init__(ScannedModel(str(folder), files), layout)
        self._folder = folder
        with disk_errors(folder, "write", UNPUBLISHED):
            for entry in files:
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as stream:
                    stream.truncate(entry.size)

    def write(self, file: int, offset: int, data: bytearray | memoryview) -> None:
        """Write bytes of a file."""
        path = self._folder / self.files[file].path
        with disk_errors(path, "write", UNPUBLISHED), open_file(path, "rb+") as stream:
            write_at(stream, offset, data)

    def remove(self) -> None:
        """Remove the files."""
        with disk_errors(self._folder, "write", UNPUBLISHED):
            for entry in self.files:
                (self._folder / entry.path).unlink()


def _apply(package: Path, update: Update, before: _Files | None, after: _Files, jobs: int) -> None:
    """Write what an update brings; ``after`` is ``before`` if it is a refinement."""
    other = None if before is after else before
    index = parse_index(read_object(package, update.index), update, after, other)
    ends = UpdateEnds(after, before, index.map or identity(after))
    if other is not None:
        covered = all_spans(index.chunks, after.layout)
        found = copies(covered, ends.map, after, other, update.index.key)
        for copy in cut_copies(found, PIECE):
            data = other.read(copy.source_file, copy.source_offset, copy.size)
            after.write(copy.file, copy.offset, data)
    scratch, place = Scratch(), FolderPlace(package)

    def work(chunk: Chunk) -> None:
        blob = update.blobs[chunk.blob]
        payload = read_payload(place, blob, chunk, scratch)
        if hashlib.sha256(payload).digest() != chunk.sha256:
            raise IntegrityError(
                f"chunk {chunk.number} is damaged", file=str(package / blob.key), hint=_DAMAGED
            )
        decoding = ChunkDecoding(chunk, payload, ends, blob.key)
        memory = memoryview(bytearray(decoding.memory))
        buffers = decoding.run(memory, (before or after).read_spans)
        for span, buffer in zip(decoding.spans, buffers, strict=True):
            after.write(span.file, span.offset, buffer)

    def cost(chunk: Chunk) -> int:
        return chunk.length + 3 * sum(span.size for span in all_spans([chunk], after.layout))

    for _ in in_order(index.chunks, work, cost, jobs, BUDGET):
        pass  # all is in what `work` writes


def _check(state: State, release: Release, model: StoredModel, jobs: int) -> None:
    number = release.number(state)
    digests = file_hashes(model, LocalEngine(jobs))
    for entry, digest in zip(release.files, digests, strict=True):
        if digest != entry.digest(number):
            raise IntegrityError(
                f"what is decoded for {state.id} has SHA-256 {digest}, expected "
                f"{entry.digest(number)}",
                file=entry.path,
                hint="The package is damaged: publish it again",
            )
