"""Make one update from a release to another: compare, encode, read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.errors import UsageError
from p2u.package.geometry import Chunk, all_spans, chunk_spans
from p2u.package.index import MAX_PIECE, encode_index
from p2u.package.manifest import MAX_INDEX, Update
from p2u.package.mapping import CopiedRange, Map, copies, cut_copies
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import Place
from p2u.packing.levels.state_hashes import StateHashes
from p2u.packing.package_folder.blobs import BlobWriter, complete
from p2u.packing.packer import make_update, write_object
from p2u.packing.versions.changed_files import (
    ChangedChunks,
    ChangedFiles,
    UpdateParts,
    WrittenUpdate,
    changed_files,
)
from p2u.packing.versions.delta import DeltaWork
from p2u.packing.versions.differences import Change, Comparer
from p2u.packing.versions.pairing import Matcher, match_files
from p2u.types import BLOCKS, PROGRESSIVE


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """Engine, memory and progress of the work.

    Attributes:
        engine: Does it.
        budget: Memory for chunks under way, bytes.
        blob_size: Most bytes of a blob.
        chunk_elements: Most elements of a chunk, unless little of them changed.
        report_progress: Told the phase and the bytes of it that are done.
    """

    engine: Engine
    budget: int
    blob_size: int
    chunk_elements: int
    report_progress: Callable[[str, int], None]


class VersionUpdate:
    """Makes an update between two releases.

    Args:
        old: The parent, in the source state.
        new: The version, in the target state.
        folder: Where the index is written.
        place: Where the blobs are written.
        prefix: What the folder will be called in the package, with a slash.
        label: Beginning of the files' names.
        settings: How.
    """

    def __init__(
        self,
        old: StoredModel,
        new: StoredModel,
        folder: Path,
        place: Place,
        prefix: str,
        label: str,
        settings: UpdateSettings,
    ) -> None:
        self._old, self._new = old, new
        self._folder, self._prefix, self._label = folder, prefix, label
        self._place = place
        self._settings = settings
        pairs = Matcher(new, old).tensors()
        self._map = Map(pairs, match_files(new, old, pairs))
        self._made: list[tuple[Change, Chunk]] = []
        self._writer = BlobWriter(settings.engine, place, label, settings.blob_size)

    def encode(self, source: str, target: str) -> Update:
        """Write the update's blobs and its index.

        Args:
            source: Id of the state that it begins at.
            target: Id of the state that it leads to.

        Raises:
            DiskError, IntegrityError: A file cannot be read or written.
            UsageError: The model is too large.
        """
        settings, engine = self._settings, self._settings.engine
        done = 0
        settings.report_progress("encode", 0)
        comparer = Comparer(self._new, self._old, self._map, settings.chunk_elements, engine)
        work = DeltaWork(self._new, self._old, self._map)
        results = engine.run(work, comparer.changes(), settings.budget)
        try:
            for change, coded in results:
                (payload,), (digest,) = coded.payloads, coded.digests
                blob, start = self._writer.add(payload)
                number, job = len(self._made), change.job
                chunk = Chunk(number, blob, start, len(payload), digest, job.segments, job.pieces)
                self._made.append((change, chunk))
                done += job.size
                settings.report_progress("encode", done)
            complete(engine, self._place, [self._writer])
        finally:
            results.close()
            self._writer.close()
        settings.report_progress("encode", self._new.size)  # what is not coded is equal
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
        update = WrittenUpdate(
            self._old, self._new, self._map, self._place, tuple(self._writer.blobs)
        )
        covered = all_spans((chunk for _, chunk in self._made), self._new.layout)
        copied = copies(covered, self._map, self._new, self._old, self._label)
        if self._settings.engine.shares_memory:
            digests = self._hash_here(update, copied)
        else:
            digests = self._hash_elsewhere(update, copied)
        self._settings.report_progress("verify", self._new.size)
        return digests

    def _hash_here(
        self, update: WrittenUpdate, copied: Iterable[CopiedRange]
    ) -> list[tuple[str, ...]]:
        """Decode all chunks once, for all files."""
        cut = tuple(cut_copies(copied, MAX_PIECE))
        written = ChangedChunks(update, UpdateParts(tuple(self._made), cut))
        hashes = StateHashes(self._new.files, [1] * len(self._new.files))
        for number, job in enumerate(written.jobs):
            hashes.expect(number, chunk_spans(job, self._new.layout))
        return hashes.finish(
            written.decode,
            written.cost,
            self._settings.engine.workers,
            self._settings.budget,
            lambda done: self._settings.report_progress("verify", done),
        )

    def _hash_elsewhere(
        self, update: WrittenUpdate, copied: Iterable[CopiedRange]
    ) -> list[tuple[str, ...]]:
        """Decode the chunks of each file for itself."""
        engine = self._settings.engine
        items = changed_files(self._new, self._made, copied)
        work = ChangedFiles(update, engine.threads_each(len(items)))
        found = []
        done = 0
        with closing(engine.run(work, items, self._settings.budget)) as results:
            for item, digests in results:
                found.append(digests)
                done += item.size
                self._settings.report_progress("verify", done)
        return found

    def remove(self) -> None:
        """Remove what was written.

        Raises:
            DiskError, StoreError: It cannot be removed.
        """
        self._place.remove([blob.key for blob in self._writer.blobs])
        index = self._folder / f"{self._label}.index"
        with disk_errors(index, "write", UNPUBLISHED):
            index.unlink()

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
