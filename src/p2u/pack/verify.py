"""Decode what was written, compare it with the source, and hash every state.

Hashes need a file's bytes in order, chunks lie in the order of a forward pass: a chunk is decoded
when its first bytes are due, and kept until its last ones were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2u import core
from p2u.errors import IntegrityError
from p2u.index import Chunk, decode_pieces
from p2u.layout import Layout
from p2u.manifest import Blob
from p2u.pack.cut import Job
from p2u.pack.encode import buffers, read_job
from p2u.pack.hashes import Hashes
from p2u.pack.pool import in_order
from p2u.pack.source import Scratch, Source, disk_errors, read_at

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


class Verifier:
    """One pass over all files.

    Args:
        folder: Where the blobs lie.
        source: The model.
        layout: Its tensors.
        made: All chunks.
        blobs: Those of each update.
        jobs: Threads.
        budget: Bytes of memory for chunks that are being decoded.
        progress: Told the number of bytes done.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        layout: Layout,
        made: list[Made],
        blobs: list[list[Blob]],
        jobs: int,
        budget: int,
        progress: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._source = source
        self._layout = layout
        self._made = made
        self._blobs = blobs
        self._jobs = jobs
        self._budget = budget
        self._progress = progress
        self._original, self._written = Scratch(), Scratch()

    def run(self) -> list[tuple[str, ...]]:
        """Verify everything.

        Returns:
            For each file, its SHA-256 in hex in every state; a single one if all are equal.

        Raises:
            IntegrityError: The exact state is not the source.
            DiskError: Something cannot be read.
        """
        regions = self._regions()
        finer = {r.file for r in regions if len(self._made[r.made].chunks) > 1}
        order = list(dict.fromkeys(region.made for region in regions))
        decoded = in_order(order, self._decode, self._cost, self._jobs, self._budget)
        kept = _Kept(decoded, self._decode, regions)
        digests = []
        done = 0
        try:
            for number in range(len(self._source.files)):
                states = len(self._blobs) if number in finer else 1
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
        for number, made in enumerate(self._made):
            start = 0
            for place in made.job.places(self._layout):
                out.append(_Region(place.file, place.offset, place.size, number, start))
                start += place.size
        return sorted(out)

    def _cost(self, number: int) -> int:
        made = self._made[number]
        payloads = sum(chunk.length for chunk in made.chunks)
        return made.job.size * (len(made.chunks) + 2) + payloads

    def _payload(self, update: int, chunk: Chunk) -> memoryview:
        blob = self._blobs[update][chunk.blob]
        path = str(self._folder / blob.key)
        out = self._written.view(chunk.length)
        with disk_errors(path, "read"):
            count = read_at(path, chunk.start, out)
        if count < chunk.length:
            raise IntegrityError("it is shorter than what was written", file=path)
        return out

    def _decode(self, number: int) -> States:
        """All states of a chunk; raises IntegrityError if the last is not the source."""
        made = self._made[number]
        source = read_job(self._source, self._layout, made.job, self._original)
        states: list[bytearray] = []
        for update, chunk in enumerate(made.chunks):
            payload = self._payload(update, chunk)
            if made.job.pieces:
                key = self._blobs[update][chunk.blob].key
                states.append(bytearray(decode_pieces(payload, made.job.pieces, key)))
                continue
            state = bytearray(states[-1]) if states else bytearray(len(source))
            segments = buffers(self._layout, made.job, memoryview(state))
            core.apply(payload, made.job.dtype, made.job.item, segments)
            states.append(state)
        if states[-1] != source:
            raise IntegrityError(
                "what was packed does not decode to what is there now",
                file=self._name(made.job),
                hint="If the model was not changed meanwhile, this is a bug: please report it",
            )
        return tuple(states)

    def _name(self, job: Job) -> str:
        return self._source.files[job.places(self._layout)[0].file].path


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
        """The next region, and the chunk that it lies in."""
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
