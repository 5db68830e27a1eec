"""Ways of an update into memory: at once, or gathered beside it until a commit."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from p2u.client.live.low_priority import in_background
from p2u.client.live.memory import ModelMemory
from p2u.client.live.spool import Spool
from p2u.codec.chunk import check_kind, decode
from p2u.package.geometry import Countdown, Span, chunk_spans
from p2u.package.index import Chunk
from p2u.package.layout import Layout
from p2u.package.manifest import Update, changed_files

#: Bytes that one thread copies at a time during a commit.
_STRIDE = 4 << 20
#: Threads that copy; more only wait for the memory.
_COPIERS = 4


class StagedUpdate(ABC):
    """One update into memory.

    Args:
        files: The memory.
        update: The update.
        chunks: All of it.
        check: Whether to compare each file with its SHA-256.

    Attributes:
        missing: Chunks that `apply` has not had, by number.
        spoils: Whether `apply` writes to the memory in use.
    """

    spoils = False

    def __init__(
        self, files: ModelMemory, update: Update, chunks: Sequence[Chunk], check: bool
    ) -> None:
        self.files = files
        self.update = update
        self.chunks = chunks
        self.missing = {chunk.number: chunk for chunk in chunks}
        self._check = check
        self._state = files.manifest.state(update.target)
        self._lock = threading.Lock()
        self._unchecked = set(changed_files(files.manifest, update))
        self._left = Countdown(files.layout, chunks)

    def spans(self, chunk: Chunk) -> list[Span]:
        """Where a chunk's bytes lie."""
        return chunk_spans(chunk, self.files.layout)

    def decode(self, chunk: Chunk, payload: memoryview, memory: list[memoryview]) -> None:
        """Decode a chunk into some memory like that of the files."""
        spans = self.spans(chunk)
        buffers = [memory[s.file][s.offset : s.offset + s.size] for s in spans]
        key = self.update.blobs[chunk.blob].key
        crosses = self.files.manifest.crosses(self.update)
        check_kind(chunk, payload, key, begins=self.update.source is None, crosses=crosses)
        decode(chunk, payload, self.files.layout, spans, buffers, key)

    def apply(self, chunk: Chunk, payload: memoryview) -> None:
        """Take a chunk whose hash is right; in any thread.

        Raises:
            FormatError: It is malformed.
            IntegrityError: It completed a file, which is not what it should be.
            DiskError: The temporary file cannot be written.
        """
        self.take(chunk, payload)
        with self._lock:
            del self.missing[chunk.number]
        for file in self._left.done(chunk):
            self.complete(file)

    @abstractmethod
    def take(self, chunk: Chunk, payload: memoryview) -> None:
        """Decode or keep a chunk."""

    def complete(self, file: int) -> None:
        """All chunks of a file are here."""
        self.check(file)

    def prepare(self) -> None:
        """All chunks are here: do what can be done while the memory is in use."""
        for file in sorted(self._unchecked):
            self.check(file)

    def commit(self) -> None:  # noqa: B027 - nothing to do where it was done as chunks came
        """Let the memory be the next state. Nobody uses it."""

    def finish(self) -> None:  # noqa: B027 - as for commit
        """The commit is done: check what could not be checked before, free what is left."""

    def parts(self, file: int) -> Iterable[memoryview]:
        """The bytes of a file of the next state."""
        return [self.files.memory[file]]

    def check(self, file: int) -> None:
        """Compare a complete file with what the manifest states."""
        if self._check:
            self.files.check(file, self._state, self.parts(file))
        self._unchecked.discard(file)


class DirectUpdate(StagedUpdate):
    """Chunks are decoded where the model lies, as they come."""

    spoils = True

    def take(self, chunk: Chunk, payload: memoryview) -> None:
        """See `StagedUpdate.take`."""
        self.decode(chunk, payload, self.files.memory)


class SpooledUpdate(StagedUpdate):
    """Payloads are kept, and decoded together in the commit: little memory, a longer pause."""

    def __init__(
        self, files: ModelMemory, update: Update, chunks: Sequence[Chunk], check: bool
    ) -> None:
        super().__init__(files, update, chunks, check)
        self._spool = Spool()

    def take(self, chunk: Chunk, payload: memoryview) -> None:
        """See `StagedUpdate.take`."""
        self._spool.put(chunk.number, payload)

    def complete(self, file: int) -> None:
        """Nothing can be checked before it is decoded."""

    def prepare(self) -> None:
        """See `complete`."""

    def commit(self) -> None:
        """See `StagedUpdate.commit`."""

        def run(chunk: Chunk) -> None:
            self.decode(chunk, self._spool.get(chunk.number), self.files.memory)

        _all_threads(run, self.chunks, os.cpu_count() or 1)

    def finish(self) -> None:
        """See `StagedUpdate.finish`."""
        self._spool.close()
        in_background(super().prepare)


class CopiedUpdate(StagedUpdate):
    """Tensors are decoded and checked in other memory; the commit copies them over."""

    def __init__(
        self, files: ModelMemory, update: Update, chunks: Sequence[Chunk], check: bool
    ) -> None:
        super().__init__(files, update, chunks, check)
        self._spare = files.spare()
        self._ranges = merge((s.file, s.offset, s.size) for c in chunks for s in self.spans(c))

    def take(self, chunk: Chunk, payload: memoryview) -> None:
        """See `StagedUpdate.take`."""
        for s in self.spans(chunk):
            end = s.offset + s.size
            copy(self._spare[s.file][s.offset : end], self.files.memory[s.file][s.offset : end])
        self.decode(chunk, payload, self._spare)

    def parts(self, file: int) -> Iterator[memoryview]:
        """What chunks bring is in the spare memory, the rest stays as it is."""
        live, spare = self.files.memory[file], self._spare[file]
        at = 0
        for start, end in self._ranges.get(file, ()):
            yield live[at:start]
            yield spare[start:end]
            at = end
        yield live[at:]

    def commit(self) -> None:
        """See `StagedUpdate.commit`."""
        pieces = [
            (file, at, min(at + _STRIDE, end))
            for file, ranges in self._ranges.items()
            for start, end in ranges
            for at in range(start, end, _STRIDE)
        ]

        def run(piece: tuple[int, int, int]) -> None:
            file, start, end = piece
            copy(self.files.memory[file][start:end], self._spare[file][start:end])

        _all_threads(run, pieces, min(_COPIERS, os.cpu_count() or 1))


def _all_threads(run: Callable[[Any], None], items: Sequence[Any], count: int) -> None:
    with ThreadPoolExecutor(count, thread_name_prefix="p2u-commit") as pool:
        for _ in pool.map(run, items):
            pass


def copy(target: memoryview, source: memoryview) -> None:
    """Copy bytes; other threads run meanwhile, which a slice's assignment does not let them."""
    import numpy as np

    if not len(source):
        return  # which NumPy refuses
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def merge(spans: Iterable[tuple[int, int, int]]) -> dict[int, list[tuple[int, int]]]:
    """By file, the sorted ranges ``(start, end)`` that spans ``(file, offset, size)`` cover."""
    found: dict[int, list[tuple[int, int]]] = {}
    for file, offset, size in sorted(spans):
        ranges = found.setdefault(file, [])
        if ranges and ranges[-1][1] >= offset:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], offset + size))
        else:
            ranges.append((offset, offset + size))
    return found


def available_memory() -> int | None:
    """Bytes that may still be used, of the machine and of this process's group; None: unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
            found.append(int(most) - used)
    except (OSError, ValueError, KeyError):
        pass
    return min(found, default=None)


def choose(chunks: Sequence[Chunk], layout: Layout) -> str:
    """``"copy"`` where half of the memory that is free holds what changes, else ``"chunks"``."""
    changed = sum(span.size for chunk in chunks for span in chunk_spans(chunk, layout))
    free = available_memory()
    return "copy" if free is None or 2 * changed <= free else "chunks"


#: Ways by their name.
STAGING: dict[str, type[StagedUpdate]] = {
    "direct": DirectUpdate,
    "chunks": SpooledUpdate,
    "copy": CopiedUpdate,
}
