"""Decode the chunks of an update between two versions as a reader does, and hash the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2u.codec import plain
from p2u.codec.chunk import ChunkDecoding, UpdateEnds
from p2u.errors import IntegrityError
from p2u.package.geometry import Chunk, Piece, chunk_spans
from p2u.package.index import MAX_PIECE
from p2u.package.manifest import Blob
from p2u.package.mapping import CopiedRange, Map, cut_copies
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Scratch
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.engines.engine import Work
from p2u.packing.engines.places import Place
from p2u.packing.levels.encode import read_job
from p2u.packing.levels.file_states import BUDGET
from p2u.packing.levels.read_back import read_payload
from p2u.packing.levels.state_hashes import StateHashes, States
from p2u.packing.versions.differences import Change
from p2u.types import ModelFile


@dataclass(frozen=True, slots=True)
class UpdateParts:
    """Chunks and copied ranges of an update, to be decoded.

    Attributes:
        made: The chunks, as they were wanted and as they were written.
        copied: The ranges, cut to pieces.
    """

    made: tuple[tuple[Change, Chunk], ...]
    copied: tuple[CopiedRange, ...]

    @property
    def jobs(self) -> Iterator[Job]:
        """What each of them brings: chunks first."""
        for change, _ in self.made:
            yield change.job
        for copy in self.copied:
            piece = Piece(copy.file, copy.offset, copy.size)
            yield Job(Treatment.OPAQUE, "", 1, (), 0, (piece,))


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """The parts of an update that hold bytes of a file.

    Attributes:
        file: Its number.
        size: Its bytes.
        parts: All that it is made of.
    """

    file: int
    size: int
    parts: UpdateParts


@dataclass(frozen=True, slots=True)
class WrittenUpdate:
    """An update that was written.

    Attributes:
        old: The parent, in the source state.
        new: The version, in the target state.
        map: Which tensor and file comes from which.
        place: Where the blobs are.
        blobs: The blobs.
    """

    old: StoredModel
    new: StoredModel
    map: Map
    place: Place
    blobs: tuple[Blob, ...]


class ChangedFiles(Work[ChangedFile, tuple[str, ...]]):
    """Decode all chunks of each file, compare them with the version, and hash the file.

    The result is its SHA-256 in hex, in a tuple of one.

    Args:
        update: The update.
        threads: How many decode for one file.
    """

    def __init__(self, update: WrittenUpdate, threads: int) -> None:
        self._update = update
        self.threads = threads

    def start(self) -> ChangedFiles:
        """See `Work.start`."""
        return self

    def size(self, item: ChangedFile) -> int:
        """See `Work.size`."""
        return item.size

    def cost(self, item: ChangedFile) -> int:
        """See `StartedWork.cost`."""
        return BUDGET

    def run(self, item: ChangedFile) -> tuple[str, ...]:
        """Verify a file.

        Raises:
            IntegrityError: It is not the version's.
            FormatError, DiskError, StoreError: What was written cannot be read.
        """
        written = ChangedChunks(self._update, item.parts)
        hashes = StateHashes([ModelFile("", item.size)], [1])
        for number, job in enumerate(written.jobs):
            hashes.expect(number, chunk_spans(job, self._update.new.layout), item.file)
        (digests,) = hashes.finish(
            written.decode, written.cost, self.threads, BUDGET, lambda done: None
        )
        return digests


def changed_files(
    new: StoredModel, made: Iterable[tuple[Change, Chunk]], copied: Iterable[CopiedRange]
) -> list[ChangedFile]:
    """The parts of each file, in the order of the files."""
    chunks: list[list[tuple[Change, Chunk]]] = [[] for _ in new.files]
    ranges: list[list[CopiedRange]] = [[] for _ in new.files]
    for change, chunk in made:
        for file in {span.file for span in chunk_spans(change.job, new.layout)}:
            chunks[file].append((change, chunk))
    for copy in cut_copies(copied, MAX_PIECE):
        ranges[copy.file].append(copy)
    return [
        ChangedFile(number, file.size, UpdateParts(tuple(chunks[number]), tuple(ranges[number])))
        for number, file in enumerate(new.files)
    ]


class ChangedChunks:
    """Chunks and copied ranges of an update, as a reader decodes them.

    Args:
        update: The update.
        parts: Those chunks and ranges.

    Attributes:
        jobs: What each of them brings.
    """

    def __init__(self, update: WrittenUpdate, parts: UpdateParts) -> None:
        self._ends = UpdateEnds(update.new, update.old, update.map)
        self._update = update
        self._made: Sequence[tuple[Change, Chunk]] = parts.made
        self._copied: Sequence[CopiedRange] = parts.copied
        self._written, self._decoded, self._original = Scratch(), Scratch(), Scratch()
        self.jobs = list(parts.jobs)

    def cost(self, number: int) -> int:
        """Memory that decoding a chunk takes, bytes, about."""
        return 3 * self.jobs[number].size

    def decode(self, number: int) -> States:
        """The bytes of a chunk; raises IntegrityError if they are not the version's."""
        job, new = self.jobs[number], self._update.new
        found = self._decode(number)
        if not plain.equal(found, read_job(new, job, self._original)):
            raise IntegrityError(
                "the decoded package differs from the model",
                file=new.files[chunk_spans(job, new.layout)[0].file].path,
                hint="If the model was not changed meanwhile, this is a bug: please report it",
            )
        return (found,)

    def _decode(self, number: int) -> memoryview:
        old = self._update.old
        if number >= len(self._made):
            copy = self._copied[number - len(self._made)]
            return memoryview(old.read(copy.source_file, copy.source_offset, copy.size))
        _, chunk = self._made[number]
        blob = self._update.blobs[chunk.blob]
        payload = read_payload(self._update.place, blob, chunk, self._written)
        decoding = ChunkDecoding(chunk, payload, self._ends, blob.key)
        memory = self._decoded.view(decoding.memory)
        decoding.run(memory, old.read_spans)
        return memoryview(bytearray(memory[: decoding.size]))
