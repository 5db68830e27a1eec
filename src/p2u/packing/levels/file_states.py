"""Hash a file in every state from the blobs that were written, for engines in other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2u.codec import plain
from p2u.package.geometry import chunk_spans
from p2u.package.layout import Layout
from p2u.package.manifest import Blob
from p2u.packing.chunking.pool import Scratch
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines.engine import Work
from p2u.packing.engines.places import Place
from p2u.packing.levels.encode import read_job
from p2u.packing.levels.read_back import LevelChunks, Made, not_original
from p2u.packing.levels.state_hashes import StateHashes, States
from p2u.types import ModelFile

#: Bytes of memory for chunks that are being decoded.
BUDGET = 32 << 20


@dataclass(frozen=True, slots=True)
class FileChunks:
    """The written chunks that hold bytes of a file.

    Attributes:
        file: Its number.
        size: Its bytes.
        states: In how many states it may differ.
        made: The chunks.
    """

    file: int
    size: int
    states: int
    made: tuple[Made, ...]


class FileStates(Work[FileChunks, tuple[str, ...]]):
    """Decode each file's chunks for all levels, compare the last with the original, and hash all.

    The result is the file's SHA-256 in hex in every state; a single one if all are equal.

    Args:
        model: The original.
        place: Where the blobs are.
        blobs: Those of each update.
        threads: How many decode for one file.
    """

    def __init__(
        self, model: StoredModel, place: Place, blobs: Sequence[Sequence[Blob]], threads: int
    ) -> None:
        self._model = model
        self._place = place
        self._blobs = blobs
        self.threads = threads

    def start(self) -> FileStates:
        """See `Work.start`."""
        return self

    def size(self, item: FileChunks) -> int:
        """See `Work.size`."""
        return item.size

    def cost(self, item: FileChunks) -> int:
        """See `StartedWork.cost`."""
        return BUDGET

    def run(self, item: FileChunks) -> tuple[str, ...]:
        """Verify and hash a file.

        Raises:
            DiskError, StoreError, IntegrityError: The blobs are not what was written, or do not
                decode to the original.
        """
        layout, scratch = self._model.layout, Scratch()
        chunks = LevelChunks(self._place, layout, item.made, self._blobs)
        hashes = StateHashes([ModelFile("", item.size)], [item.states])

        def decode(number: int) -> States:
            states = chunks.decode(number)
            job = item.made[number].job
            if not plain.equal(states[-1], read_job(self._model, job, scratch)):
                raise not_original(chunk_spans(job, layout))
            return states

        for number, made in enumerate(item.made):
            hashes.expect(number, chunk_spans(made.job, layout), item.file)
        (digests,) = hashes.finish(decode, chunks.cost, self.threads, BUDGET, lambda done: None)
        return digests


def chunks_of_files(
    files: Sequence[ModelFile], counts: Sequence[int], made: Sequence[Made], layout: Layout
) -> list[FileChunks]:
    """The chunks of each file, in the order of the files."""
    found: list[list[Made]] = [[] for _ in files]
    for one in made:
        for file in {span.file for span in chunk_spans(one.job, layout)}:
            found[file].append(one)
    return [
        FileChunks(number, file.size, counts[number], tuple(found[number]))
        for number, file in enumerate(files)
    ]
