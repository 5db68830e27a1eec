"""Make one update from a release to another: compare, encode, read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2u.codec import plain
from p2u.codec.chunk import ChunkDecoding, UpdateEnds
from p2u.errors import IntegrityError, UsageError
from p2u.package.geometry import Chunk, Piece, all_spans, chunk_spans
from p2u.package.index import MAX_PIECE, encode_index
from p2u.package.manifest import MAX_INDEX, Blob, Update
from p2u.package.mapping import CopiedRange, Map, copies, cut_copies
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Scratch, in_order
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.levels.encode import read_job
from p2u.packing.levels.read_back import read_payload
from p2u.packing.levels.state_hashes import StateHashes, States
from p2u.packing.package_folder.blobs import BlobWriter
from p2u.packing.packer import make_update, write_object
from p2u.packing.versions.delta import DeltaCoder
from p2u.packing.versions.differences import Change, Comparer
from p2u.packing.versions.pairing import Matcher, match_files
from p2u.types import BLOCKS, PROGRESSIVE


@dataclass(frozen=True, slots=True)
class Work:
    """Threads, memory and progress of the work.

    Attributes:
        jobs: Threads.
        budget: Memory for chunks under way, bytes.
        blob_size: Most bytes of a blob.
        chunk_elements: Most elements of a chunk, unless little of them changed.
        report_progress: Told the phase and the bytes of it that are done.
    """

    jobs: int
    budget: int
    blob_size: int
    chunk_elements: int
    report_progress: Callable[[str, int], None]


class VersionUpdate:
    """Makes an update between two releases.

    Args:
        old: The parent, in the source state.
        new: The version, in the target state.
        folder: Where the files are written.
        prefix: What the folder will be called in the package, with a slash.
        label: Beginning of the files' names.
        work: How.
    """

    def __init__(
        self,
        old: StoredModel,
        new: StoredModel,
        folder: Path,
        prefix: str,
        label: str,
        work: Work,
    ) -> None:
        self._old, self._new = old, new
        self._folder, self._prefix, self._label = folder, prefix, label
        self._work = work
        pairs = Matcher(new, old).tensors()
        self._map = Map(pairs, match_files(new, old, pairs))
        self._coder = DeltaCoder(new, old, self._map)
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
        self._work.report_progress("encode", 0)
        changes = Comparer(self._new, self._old, self._map, self._work.chunk_elements).changes()
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
                self._work.report_progress("encode", done)
        finally:
            results.close()
            self._writer.close()
        self._work.report_progress("encode", self._new.size)  # what is not coded is equal
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
        ends = UpdateEnds(self._new, self._old, self._map)
        covered = all_spans((chunk for _, chunk in self._made), self._new.layout)
        copied = copies(covered, self._map, self._new, self._old, self._label)
        written = _ChangedChunks(
            ends, self._new, self._old, self._folder, self._writer.blobs, self._made, copied
        )
        hashes = StateHashes(self._new.files, [1] * len(self._new.files))
        for number, job in enumerate(written.jobs):
            hashes.expect(number, chunk_spans(job, self._new.layout))
        digests = hashes.finish(
            written.decode,
            written.cost,
            self._work.jobs,
            self._work.budget,
            lambda done: self._work.report_progress("verify", done),
        )
        self._work.report_progress("verify", self._new.size)
        return digests

    def bits(self) -> int:
        """Bits of the chunks of floats."""
        return sum(8 * c.length for change, c in self._made if change.job.dtype in PROGRESSIVE)

    def notes(self) -> list[str]:
        """Sentences for the report: the tensors without a counterpart, where others have one."""
        tensors = self._new.tensors
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
            blocks = any(t.dtype in BLOCKS for t in self._old.tensors)
            matrices = (tensors[n] for n in lonely if len(tensors[n].shape) > 1)
            if blocks and any(t.dtype in PROGRESSIVE for t in matrices):
                text += (
                    ". Rows in another order are not followed (llama.cpp permutes those of "
                    "attn_q and attn_k of Llama models)"
                )
            out.append(text)
        return out


class _ChangedChunks:
    """Chunks and copied ranges of an update, as a reader decodes them."""

    def __init__(
        self,
        ends: UpdateEnds,
        new: StoredModel,
        old: StoredModel,
        folder: Path,
        blobs: Sequence[Blob],
        made: Sequence[tuple[Change, Chunk]],
        copied: Iterable[CopiedRange],
    ) -> None:
        self._ends = ends
        self._new, self._old = new, old
        self._folder = folder
        self._blobs = blobs
        self._made = made
        self._copied = list(cut_copies(copied, MAX_PIECE))
        self._written, self._decoded, self._original = Scratch(), Scratch(), Scratch()
        self.jobs = [change.job for change, _ in made]
        for copy in self._copied:
            piece = Piece(copy.file, copy.offset, copy.size)
            self.jobs.append(Job(Treatment.OPAQUE, "", 1, (), 0, (piece,)))

    def cost(self, number: int) -> int:
        """Memory that decoding a chunk takes, bytes, about."""
        return 3 * self.jobs[number].size

    def decode(self, number: int) -> States:
        """The bytes of a chunk; raises IntegrityError if they are not the version's."""
        job = self.jobs[number]
        found = self._decode(number)
        if not plain.equal(found, read_job(self._new, job, self._original)):
            raise IntegrityError(
                "the decoded package differs from the model",
                file=self._new.files[chunk_spans(job, self._new.layout)[0].file].path,
                hint="If the model was not changed meanwhile, this is a bug: please report it",
            )
        return (found,)

    def _decode(self, number: int) -> memoryview:
        if number >= len(self._made):
            copy = self._copied[number - len(self._made)]
            return memoryview(self._old.read(copy.source_file, copy.source_offset, copy.size))
        _, chunk = self._made[number]
        blob = self._blobs[chunk.blob]
        payload = read_payload(self._folder, blob, chunk, self._written)
        decoding = ChunkDecoding(chunk, payload, self._ends, blob.key)
        memory = self._decoded.view(decoding.memory)
        decoding.run(memory, self._old.read_spans)
        return memoryview(bytearray(memory[: decoding.size]))
