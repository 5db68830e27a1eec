"""Stage one update: the base class of all kinds of staging, and the kind that does not wait."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from p2u.client.live.memory import ModelMemory
from p2u.client.live.staging.tools import StagingTools
from p2u.codec.chunk import check_kind
from p2u.package.geometry import Chunk, Countdown, Span, chunk_spans
from p2u.package.manifest import Update, changed_files


class StagedUpdate(ABC):
    """One update into memory.

    Args:
        files: The memory.
        update: The update.
        chunks: All of it.
        check: Whether to compare each file with its SHA-256.
        tools: Limits and functions of staging.

    Attributes:
        name: Of this kind of staging.
        missing: Chunks that `apply` has not had, by number.
        broken: Applying it has failed, and would fail again.
    """

    name: ClassVar[str]

    def __init__(
        self,
        files: ModelMemory,
        update: Update,
        chunks: Sequence[Chunk],
        check: bool,
        tools: StagingTools,
    ) -> None:
        self.files = files
        self.update = update
        self.chunks = chunks
        self.broken = False
        self.missing = {chunk.number: chunk for chunk in chunks}
        self._check = check
        self.tools = tools
        self._state = files.manifest.state(update.target)
        self._lock = threading.Lock()
        self._unchecked = set(changed_files(files.manifest, update))
        self._left = Countdown(files.layout, chunks)
        self.begin()

    def begin(self) -> None:  # noqa: B027 - nothing to do where chunks are applied at once
        """Make room for the chunks."""

    def spans(self, chunk: Chunk) -> list[Span]:
        """The places of a chunk's bytes."""
        return chunk_spans(chunk, self.files.layout)

    def decode(self, chunk: Chunk, payload: memoryview, memory: list[memoryview]) -> None:
        """Decode a chunk into some memory like that of the files."""
        spans = self.spans(chunk)
        buffers = [memory[s.file][s.offset : s.offset + s.size] for s in spans]
        key = self.update.blobs[chunk.blob].key
        crosses = self.files.manifest.crosses(self.update)
        check_kind(chunk, payload, key, begins=self.update.source is None, crosses=crosses)
        self.tools.decode(chunk, payload, self.files.layout, spans, buffers, key)

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

    name = "direct"

    def take(self, chunk: Chunk, payload: memoryview) -> None:
        """See `StagedUpdate.take`."""
        self.decode(chunk, payload, self.files.memory)


def in_threads(run: Callable[[Any], None], items: Sequence[Any], count: int) -> None:
    """Call a function with each item, in several threads; return when all is done."""
    with ThreadPoolExecutor(count, thread_name_prefix="p2u-commit") as pool:
        for _ in pool.map(run, items):
            pass
