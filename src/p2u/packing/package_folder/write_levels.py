"""Write the blobs of all levels of a model, with any engine, and verify what was written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from p2u.codec import plain
from p2u.package.geometry import chunk_spans
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.cut import Job
from p2u.packing.engines.coded import Coded, Payload
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import Place
from p2u.packing.levels.chunk_pass import HashedPass, LevelWork, state_counts
from p2u.packing.levels.encode import EncoderSpec, encode_pieces
from p2u.packing.levels.file_states import FileStates, chunks_of_files
from p2u.packing.levels.read_back import LevelChunks
from p2u.packing.levels.state_hashes import StateHashes
from p2u.packing.package_folder.level_blobs import LevelBlobs

#: Told the phase and the bytes of it that are done.
ReportProgress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class LevelTarget:
    """Where and how the levels are written.

    Attributes:
        engine: Does the work.
        place: Where the blobs are written.
        folder: A folder for what has to wait on the disk.
        labels: Of the levels.
        blob_size: Most bytes of a blob.
        budget: Memory for chunks under way, bytes.
        report_progress: Told of the progress.
    """

    engine: Engine
    place: Place
    folder: Path
    labels: tuple[str, ...]
    blob_size: int
    budget: int
    report_progress: ReportProgress


class LevelWriter:
    """Writes the levels of a model once.

    Args:
        spec: Makes payloads.
        jobs: All chunks but those of checksums, in the order of the blobs.
        target: Where and how.

    Attributes:
        blobs: What was written.
    """

    def __init__(self, spec: EncoderSpec, jobs: Sequence[Job], target: LevelTarget) -> None:
        self._spec = spec
        self._model = spec.model
        self._jobs = jobs
        self._target = target
        self._hashes: StateHashes | None = None
        self.blobs = LevelBlobs(
            target.engine, target.place, target.folder, target.labels, target.blob_size
        )

    def write(self) -> None:
        """Encode all chunks, read them back, and write the blobs.

        Raises:
            DiskError, StoreError, IntegrityError: See `ChunkCoder.run`, `BlobWriter.add`.
        """
        target, states = self._target, len(self._target.labels)
        checks = Checks(self._model.files, self._model.layout)
        done = 0
        results = self._coded()
        try:
            for number, coded in results:
                job = self._jobs[number]
                checks.add(job, coded.sums)
                self.blobs.add(number, job, coded)
                done += job.size
                target.report_progress("encode", done)
            for job, contents in checks.jobs(self._model, states):
                self._add_checksums(job, contents)
            self.blobs.finish()
        finally:
            results.close()
            self.blobs.close()

    def digests(self) -> list[tuple[str, ...]]:
        """The SHA-256 of each file in hex in every state, from what was decoded.

        Raises:
            DiskError, StoreError, IntegrityError: The blobs are not what was written.
        """
        target = self._target
        written = [writer.blobs for writer in self.blobs.writers]
        made, layout = self.blobs.made, self._model.layout
        if self._hashes is not None:
            chunks = LevelChunks(target.place, layout, made, written)
            return self._hashes.finish(
                chunks.decode,
                chunks.cost,
                target.engine.workers,
                target.budget,
                lambda done: target.report_progress("verify", done),
            )
        counts = state_counts(self._model, self._jobs, len(target.labels))
        items = chunks_of_files(self._model.files, counts, made, layout)
        work = FileStates(
            self._model, target.place, written, target.engine.threads_each(len(items))
        )
        found = []
        done = 0
        with closing(target.engine.run(work, items, target.budget)) as results:
            for item, digests in results:
                found.append(digests)
                done += item.size
                target.report_progress("verify", done)
        return found

    def _coded(self) -> Generator[tuple[int, Coded[Payload]], None, None]:
        """The number and the payloads of each chunk, in an order that suits the engine."""
        engine, states = self._target.engine, len(self._target.labels)
        if engine.shares_memory:
            work = HashedPass(self._spec, self._jobs, states, engine.workers)
            self._hashes = work.hashes
            return engine.run(work, work.order(), self._target.budget)
        return _numbered(engine.run(LevelWork(self._spec, states), self._jobs, self._target.budget))

    def _add_checksums(self, job: Job, contents: list[bytes]) -> None:
        number = len(self.blobs.made)
        coded = encode_pieces(contents)
        digests = tuple(plain.sha256_each(coded.payloads))
        self.blobs.add(number, job, replace(coded, digests=digests))
        if self._hashes is not None:
            spans = chunk_spans(job, self._model.layout)
            views = tuple(memoryview(bytearray(content)) for content in contents)
            self._hashes.add(number, spans, views)


def _numbered(
    results: Generator[tuple[Job, Coded[Payload]], None, None],
) -> Generator[tuple[int, Coded[Payload]], None, None]:
    with closing(results):
        for number, (_, coded) in enumerate(results):
            yield number, coded
