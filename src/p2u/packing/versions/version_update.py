"""One update from a release to another: compare, encode, verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2u.errors import UsageError
from p2u.package.geometry import Chunk, Piece, all_spans
from p2u.package.index import MAX_PIECE, encode_index
from p2u.package.layout import ReleaseLayout
from p2u.package.manifest import MAX_INDEX, Blob, Release, Update
from p2u.package.mapping import CopiedRange, Map, copies
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import in_order
from p2u.packing.chunking.source import Scratch
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.levels.read_back import States, Verifier, read_payload
from p2u.packing.package_folder.blobs import BlobWriter
from p2u.packing.packer import make_update, write_object
from p2u.packing.versions.delta import DeltaCoder
from p2u.packing.versions.differences import Change, Comparer
from p2u.packing.versions.pairing import Matcher, Side, match_files
from p2u.types import BLOCKS, PROGRESSIVE


@dataclass(frozen=True, slots=True)
class Work:
    """How to work.

    Attributes:
        jobs: Threads.
        budget: Memory for chunks under way, bytes.
        blob_size: Most bytes of a blob.
        chunk_elements: Most elements of a chunk, unless little of them changed.
        tell: Told the phase and the bytes of it that are done.
    """

    jobs: int
    budget: int
    blob_size: int
    chunk_elements: int
    tell: Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class End:
    """A release that an update begins or ends at: its description and its bytes at hand."""

    release: Release
    side: Side

    @property
    def model(self) -> ReleaseLayout:
        """As the index sees it."""
        return ReleaseLayout(self.release, self.side.layout)


class VersionUpdate:
    """Makes an update between two releases.

    Args:
        old: The parent; its side's bytes are those of the source state.
        new: The version; its side's bytes are those of the target state.
        folder: Where the files are written.
        prefix: What the folder will be called in the package, with a slash.
        label: Beginning of the files' names.
        work: How.
    """

    def __init__(
        self, old: End, new: End, folder: Path, prefix: str, label: str, work: Work
    ) -> None:
        self._old, self._new = old, new
        self._folder, self._prefix, self._label = folder, prefix, label
        self._work = work
        pairs = Matcher(new.side, old.side).tensors()
        self._map = Map(pairs, match_files(new.side, old.side, pairs))
        self._coder = DeltaCoder(new.side, old.side, self._map)
        self._made: list[tuple[Change, Chunk]] = []
        self._writer = BlobWriter(folder, label, work.blob_size)

    def encode(self, source: str, target: str) -> Update:
        """Write the update's blobs and its index.

        Args:
            source: Id of the state that it begins at.
            target: Id of the state that it leads to.

        Raises:
            DiskError, IntegrityError: A file cannot be read or written.
            UsageError: The model is too large.
        """
        done = 0
        self._work.tell("encode", 0)
        comparer = Comparer(self._new.side, self._old.side, self._map, self._work.chunk_elements)
        changes = comparer.changes()
        results = in_order(
            changes, self._coder.encode, self._coder.cost, self._work.jobs, self._work.budget
        )
        try:
            for change, payload in results:
                blob, start = self._writer.add(payload.data)
                number, job = len(self._made), change.job
                chunk = Chunk(
                    number, blob, start, len(payload.data), payload.sha256, job.segments, job.pieces
                )
                self._made.append((change, chunk))
                done += job.size
                self._work.tell("encode", done)
        finally:
            results.close()
            self._writer.close()
        index = encode_index([chunk for _, chunk in self._made], self._map)
        if len(index) > MAX_INDEX:
            raise UsageError("the model is too large for one package", file=target)
        written = write_object(self._folder, self._prefix, f"{self._label}.index", index)
        return make_update(
            source, target, written, self._writer.blobs, self._prefix, len(self._made)
        )

    def verify(self) -> list[tuple[str, ...]]:
        """Decode all and compare it with the version.

        Returns:
            The SHA-256 of each file in hex, in a tuple of one.

        Raises:
            IntegrityError: It is not the version.
            FormatError, DiskError: What was written cannot be read.
        """
        found = [chunk for _, chunk in self._made]
        covered = all_spans(found, self._new.side.layout)
        copied = copies(covered, self._map, self._new.model, self._old.model, self._label)
        return Verifier(
            self._new.side.source,
            self._new.side.layout,
            _Changed(
                self._old.side, self._coder, self._folder, self._writer.blobs, self._made, copied
            ),
            self._work.jobs,
            self._work.budget,
            lambda done: self._work.tell("verify", done),
        ).run()

    def bits(self) -> int:
        """Bits of the chunks of floats."""
        return sum(8 * c.length for change, c in self._made if change.job.dtype in PROGRESSIVE)

    def notes(self) -> list[str]:
        """What is worth saying: tensors that have no counterpart, where others do."""
        tensors = self._new.side.layout.tensors
        lonely = [n for n, pair in enumerate(self._map.tensors) if pair is None]
        lonely = [n for n in lonely if tensors[n].length]
        out = []
        if lonely:
            size = sum(tensors[n].length for n in lonely)
            names = ", ".join(tensors[n].name for n in lonely[:3])
            more = ", ..." if len(lonely) > 3 else ""
            text = (
                f"{len(lonely)} of {len(tensors)} tensors, {size:,} bytes, have no counterpart in "
                f"the parent and are coded alone: {names}{more}"
            )
            blocks = any(t.dtype in BLOCKS for t in self._old.side.layout.tensors)
            matrices = (tensors[n] for n in lonely if len(tensors[n].shape) > 1)
            if blocks and any(t.dtype in PROGRESSIVE for t in matrices):
                text += (
                    ". Rows in another order are not followed (llama.cpp permutes those of "
                    "attn_q and attn_k of Llama models)"
                )
            out.append(text)
        return out


class _Changed:
    """What a verifier sees of an update: its chunks, and then what is copied; see `Chunks`."""

    states = 1

    def __init__(
        self,
        old: Side,
        coder: DeltaCoder,
        folder: Path,
        blobs: Sequence[Blob],
        made: Sequence[tuple[Change, Chunk]],
        copied: Iterable[CopiedRange],
    ) -> None:
        self._old = old
        self._coder = coder
        self._folder = folder
        self._blobs = blobs
        self._made = made
        self._copied = list(_cut(copied))
        self._written = Scratch()
        self.jobs = [change.job for change, _ in made]
        for copy in self._copied:
            piece = Piece(copy.file, copy.offset, copy.size)
            self.jobs.append(Job(Treatment.OPAQUE, "", 1, (), 0, (piece,)))

    def count(self, number: int) -> int:
        return 1

    def cost(self, number: int) -> int:
        return self.jobs[number].size

    def decode(self, number: int) -> States:
        if number >= len(self._made):
            copy = self._copied[number - len(self._made)]
            return (self._old.source.read(copy.source_file, copy.source_offset, copy.size),)
        change, chunk = self._made[number]
        blob = self._blobs[chunk.blob]
        payload = read_payload(self._folder, blob, chunk, self._written)
        return (self._coder.decode(change, payload, blob.key),)


def _cut(found: Iterable[CopiedRange]) -> Iterator[CopiedRange]:
    """Copies of a few MiB each."""
    for c in found:
        for at in range(0, c.size, MAX_PIECE):
            size = min(MAX_PIECE, c.size - at)
            yield CopiedRange(c.file, c.offset + at, c.source_file, c.source_offset + at, size)
