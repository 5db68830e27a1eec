"""Write the blobs of all levels, from chunks that are encoded in another order."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.package.geometry import Chunk
from p2u.packing.chunking.cut import Job
from p2u.packing.engines.coded import Coded, Payload
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import Place
from p2u.packing.levels.read_back import Made
from p2u.packing.package_folder.blobs import BlobWriter, complete

#: Bytes of payloads that wait in memory for the chunks before them; others wait in a file.
WAITING = 8 << 20


class LevelSums:
    """Sums over the progressive tensors of a package."""

    def __init__(self, states: int) -> None:
        self._weights = 0
        self._bits = [0] * states
        self._signal = 0.0
        self._errors = [0.0] * states

    def add(self, job: Job, coded: Coded[Payload]) -> None:
        """Count a chunk."""
        if not job.progressive:
            return
        self._weights += job.elems
        self._signal += coded.signal
        for state, error in enumerate(coded.errors):
            self._errors[state] += error
            self._bits[state] += sum(8 * len(payload) for payload in coded.payloads[: state + 1])

    def snr_db(self, state: int) -> float | None:
        """Signal-to-noise ratio in decibels; None if there is no noise."""
        error = self._errors[state]
        if error <= 0:
            return None
        ratio = self._signal / error
        if not math.isfinite(ratio) or ratio <= 0:
            return 0.0  # squares beyond the range of float64
        return round(10 * math.log10(ratio), 2)

    def average(self, state: int) -> float:
        """Bits per weight."""
        return round(self._bits[state] / self._weights, 3) if self._weights else 0.0


@dataclass(frozen=True, slots=True)
class _HeldChunk:
    """A chunk that waits for those before it.

    Attributes:
        start: Where its payloads are in the file, if they are there.
        sizes: Theirs; none if they are in memory.
    """

    job: Job
    coded: Coded[Payload]
    start: int = 0
    sizes: tuple[int, ...] = ()


class LevelBlobs:
    """The blobs of all levels.

    Args:
        engine: Writes them.
        place: Where to.
        folder: Where chunks wait that are too many for the memory.
        labels: Of the levels; the blobs' names begin with them.
        limit: Most bytes per blob.

    Attributes:
        made: The chunks that were written, in their order in the blobs.
        sums: What they add up to.
        writers: Those of each level.
    """

    def __init__(
        self, engine: Engine, place: Place, folder: Path, labels: Sequence[str], limit: int
    ) -> None:
        self._engine = engine
        self._place = place
        self._folder = folder
        self.writers = [BlobWriter(engine, place, label, limit) for label in labels]
        self.sums = LevelSums(len(labels))
        self.made: list[Made] = []
        self._waiting: dict[int, _HeldChunk] = {}
        self._size = 0
        self._file: IO[bytes] | None = None
        self._end = 0

    def add(self, number: int, job: Job, coded: Coded[Payload]) -> None:
        """Write a chunk, now or when those before it are there.

        Args:
            number: Its place in the order of the blobs.
            job: The chunk.
            coded: Its payloads.

        Raises:
            DiskError: It cannot be written.
        """
        self._waiting[number] = self._hold(job, coded, due=number == len(self.made))
        while found := self._waiting.pop(len(self.made), None):
            self._write(found)

    def _hold(self, job: Job, coded: Coded[Payload], *, due: bool) -> _HeldChunk:
        size = sum(map(len, coded.payloads))
        if due or self._size + size <= WAITING:
            self._size += size
            return _HeldChunk(job, coded)
        start = self._end
        with disk_errors(self._folder, "write", UNPUBLISHED):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - see close
            self._file.seek(start)
            self._file.writelines(_bytes(payload) for payload in coded.payloads)
        self._end = start + size
        sizes = tuple(map(len, coded.payloads))
        return _HeldChunk(job, replace(coded, payloads=()), start, sizes)

    def _payloads(self, found: _HeldChunk) -> tuple[Payload, ...]:
        if not found.sizes:
            self._size -= sum(map(len, found.coded.payloads))
            return found.coded.payloads
        assert self._file is not None
        with disk_errors(self._folder, "read"):
            self._file.seek(found.start)
            payloads: tuple[Payload, ...] = tuple(self._file.read(size) for size in found.sizes)
        if not any(waiting.sizes for waiting in self._waiting.values()):
            self._end = 0
        return payloads

    def _write(self, found: _HeldChunk) -> None:
        job, coded = found.job, replace(found.coded, payloads=self._payloads(found))
        self.sums.add(job, coded)
        chunks = []
        number = len(self.made)
        for writer, payload, digest in zip(
            self.writers, coded.payloads, coded.digests, strict=False
        ):
            blob, start = writer.add(payload)
            length = len(payload)
            chunks.append(Chunk(number, blob, start, length, digest, job.segments, job.pieces))
        self.made.append(Made(job, tuple(chunks)))

    def finish(self) -> None:
        """Complete the blobs.

        Raises:
            DiskError, StoreError: They cannot be written.
        """
        complete(self._engine, self._place, self.writers)

    def close(self) -> None:
        """Give up what is not finished."""
        if self._file is not None:
            self._file.close()
        for writer in self.writers:
            writer.close()


def _bytes(payload: Payload) -> bytes:
    """A payload that has come before its turn; engines that hold payloads keep to the order."""
    assert isinstance(payload, bytes)
    return payload
