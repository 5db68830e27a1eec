"""Read back what was written: decode it, compare it with the original, hash every state.

Hashes need a file's bytes in order, chunks lie in the order of a forward pass: a chunk is decoded
when its first bytes are due, and kept until its last ones were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2u.codec.chunk import apply_chunk, parts
from p2u.disk.errors import disk_errors
from p2u.disk.files import read_from
from p2u.errors import IntegrityError
from p2u.package.geometry import Chunk, chunk_spans
from p2u.package.layout import Layout
from p2u.package.manifest import Blob
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.pool import Scratch, in_order
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.levels.encode import read_job
from p2u.packing.levels.hashes import Hashes

#: Bytes of decoded chunks that are kept for regions further on in the file.
KEEP = 32 << 20

#: The bytes of a chunk in each state; one if all are equal.
States = tuple[bytearray, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A chunk that was written: what it holds and where its payloads lie, one per update."""

    job: Job
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, order=True)
class _Region:
    """Bytes of one file that come from one place of a chunk; sorts by place in the files."""

    file: int
    offset: int
    size: int
    made: int
    start: int


class WrittenChunks(Protocol):
    """The written chunks that a verifier decodes."""

    @property
    def jobs(self) -> Sequence[Job]:
        """The chunks: together every byte of every file once."""

    @property
    def states(self) -> int:
        """In how many states the files are to be hashed."""

    def count(self, number: int) -> int:
        """In how many of them a chunk differs; 1 if all are equal."""

    def cost(self, number: int) -> int:
        """Memory that decoding a chunk takes, bytes, about."""

    def decode(self, number: int) -> States:
        """The bytes of a chunk in all states."""


class LevelChunks:
    """The chunks of a release's base and refinements.

    Args:
        folder: Where the blobs lie.
        layout: The tensors.
        made: All chunks.
        blobs: Those of each update.
    """

    def __init__(
        self, folder: Path, layout: Layout, made: Sequence[Made], blobs: Sequence[Sequence[Blob]]
    ) -> None:
        self._folder = folder
        self._layout = layout
        self._made = made
        self._blobs = blobs
        self._written = Scratch()
        self.jobs = [m.job for m in made]
        self.states = len(blobs)

    def count(self, number: int) -> int:
        """See `WrittenChunks`."""
        return len(self._made[number].chunks)

    def cost(self, number: int) -> int:
        """See `WrittenChunks`."""
        made = self._made[number]
        return made.job.size * len(made.chunks) + sum(chunk.length for chunk in made.chunks)

    def decode(self, number: int) -> States:
        """See `WrittenChunks`."""
        made = self._made[number]
        spans = chunk_spans(made.job, self._layout)
        states: list[bytearray] = []
        for update, chunk in enumerate(made.chunks):
            blob = self._blobs[update][chunk.blob]
            payload = read_payload(self._folder, blob, chunk, self._written)
            state = bytearray(states[-1]) if states else bytearray(made.job.size)
            buffers = parts(memoryview(state), spans)
            apply_chunk(chunk, payload, self._layout, spans, buffers, blob.key)
            states.append(state)
        return tuple(states)


def read_payload(folder: Path, blob: Blob, chunk: Chunk, scratch: Scratch) -> memoryview:
    """Read the payload that was written for a chunk.

    Raises:
        DiskError, IntegrityError: It cannot be read any more.
    """
    path = str(folder / blob.key)
    out = scratch.view(chunk.length)
    with disk_errors(path, "read"):
        count = read_from(path, chunk.start, out)
    if count < chunk.length:
        raise IntegrityError("it is shorter than what was written", file=path)
    return out


class Verifier:
    """One pass over all files.

    Args:
        model: The model.
        chunks: What was written.
        jobs: Threads.
        budget: Bytes of memory for chunks that are being decoded.
        progress: Told the number of bytes done.
    """

    def __init__(
        self,
        model: StoredModel,
        chunks: WrittenChunks,
        jobs: int,
        budget: int,
        progress: Callable[[int], None],
    ) -> None:
        self._model = model
        self._chunks = chunks
        self._jobs = jobs
        self._budget = budget
        self._progress = progress
        self._original = Scratch()

    def run(self) -> list[tuple[str, ...]]:
        """Verify everything.

        Returns:
            For each file, its SHA-256 in hex in every state; a single one if all are equal.

        Raises:
            IntegrityError: The exact state is not the source.
            DiskError: Something cannot be read.
        """
        regions = self._regions()
        finer = {r.file for r in regions if self._chunks.count(r.made) > 1}
        order = list(dict.fromkeys(region.made for region in regions))
        decoded = in_order(order, self._decode, self._cost, self._jobs, self._budget)
        kept = _Kept(decoded, self._decode, regions)
        digests = []
        done = 0
        try:
            for number in range(len(self._model.files)):
                states = self._chunks.states if number in finer else 1
                with Hashes(states, thread=self._jobs > 1) as hashes:
                    while kept.file == number:
                        region, found = kept.next()
                        span = slice(region.start, region.start + region.size)
                        views = [memoryview(data)[span] for data in found]
                        hashes.update([views[min(s, len(views) - 1)] for s in range(states)])
                        done += region.size
                        self._progress(done)
                    digests.append(hashes.digests())
        finally:
            decoded.close()
        return digests

    def _regions(self) -> list[_Region]:
        out = []
        for number, job in enumerate(self._chunks.jobs):
            start = 0
            for place in chunk_spans(job, self._model.layout):
                out.append(_Region(place.file, place.offset, place.size, number, start))
                start += place.size
        return sorted(out)

    def _cost(self, number: int) -> int:
        return self._chunks.cost(number) + 2 * self._chunks.jobs[number].size

    def _decode(self, number: int) -> States:
        """All states of a chunk; raises IntegrityError if the last is not the source."""
        job = self._chunks.jobs[number]
        states = self._chunks.decode(number)
        if states[-1] != read_job(self._model, job, self._original):
            raise IntegrityError(
                "the decoded package differs from the model",
                file=self._model.files[chunk_spans(job, self._model.layout)[0].file].path,
                hint="If the model was not changed meanwhile, this is a bug: please report it",
            )
        return states


class _Kept:
    """Goes through the regions in order, and holds the chunks that are due again.

    Args:
        decoded: All chunks, in the order of their first regions.
        decode: Makes one again that was dropped for want of memory.
        regions: In order of place in the files.
    """

    def __init__(
        self,
        decoded: Iterator[tuple[int, States]],
        decode: Callable[[int], States],
        regions: list[_Region],
    ) -> None:
        self._decoded = decoded
        self._decode = decode
        self._regions = deque(regions)
        self._due: dict[int, deque[int]] = {}
        for at, region in enumerate(regions):
            self._due.setdefault(region.made, deque()).append(at)
        self._seen: set[int] = set()
        self._live: dict[int, States] = {}
        self._size = 0

    @property
    def file(self) -> int:
        """The file of the next region; -1 at the end."""
        return self._regions[0].file if self._regions else -1

    def next(self) -> tuple[_Region, States]:
        """The next region, and its chunk."""
        region = self._regions.popleft()
        number = region.made
        if number not in self._live:
            if number in self._seen:
                found = self._decode(number)
            else:
                again, found = next(self._decoded)
                assert again == number
                self._seen.add(number)
            self._live[number] = found
            self._size += sum(map(len, found))
        found = self._live[number]
        self._due[number].popleft()
        if not self._due[number]:
            self._drop(number)
        while self._size > KEEP and self._live:
            # The one that is due last costs least, if it has to be decoded again.
            self._drop(max(self._live, key=lambda n: self._due[n][0]))
        return region, found

    def _drop(self, number: int) -> None:
        self._size -= sum(map(len, self._live.pop(number)))
