"""Stage a stretch: the base class of all kinds of staging, and the kind that does not wait."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

from p2u.client.live.memory import ModelMemory
from p2u.client.live.places import Placed
from p2u.client.live.staging.tools import StagingTools
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Bundle
from p2u.client.transfer.checking import is_checked
from p2u.client.transfer.running_digest import RunningDigest
from p2u.codec.chunk import ChunkPayload, check_kind
from p2u.package.geometry import Countdown, Span, chunk_spans
from p2u.package.manifest import changed_files

#: Bytes that are hashed at a time.
_PART = 1 << 20


class StagedUpdate(ABC):
    """One update, or straight several, into memory.

    Args:
        files: The memory.
        target: The release that the updates lead to, and the places of its bytes.
        stretch: The updates.
        bundles: All of them.
        check: Which files are compared with their digests, see `is_checked`.
        tools: Limits and functions of staging.

    Attributes:
        name: Of this kind of staging.
        missing: Bundles that `apply` has not had, by number.
        broken: Applying it has failed, and would fail again.
    """

    name: ClassVar[str]

    def __init__(
        self,
        files: ModelMemory,
        target: Placed,
        stretch: Stretch,
        bundles: Sequence[Bundle],
        check: str,
        tools: StagingTools,
    ) -> None:
        self.files = files
        self.target = target
        self.stretch = stretch
        self.bundles = bundles
        self.broken = False
        self.missing = {bundle.number: bundle for bundle in bundles}
        self._check = check
        self.tools = tools
        self._state = files.manifest.state(stretch.target)
        self._lock = threading.Lock()
        self._unchecked: set[int] = set()
        for update in stretch.updates:
            self._unchecked.update(changed_files(files.manifest, update))
        self._left = Countdown(target.model.layout, (bundle.chunks[0] for bundle in bundles))
        self.begin()

    def begin(self) -> None:  # noqa: B027 - nothing to do where bundles are applied at once
        """Make room for the bundles."""

    def spans(self, bundle: Bundle) -> list[Span]:
        """The places of a bundle's bytes; ``file`` of each is its region."""
        found = chunk_spans(bundle.chunks[0], self.target.model.layout)
        return [self.target.places.span(span) for span in found]

    def decode(
        self, bundle: Bundle, payloads: Sequence[memoryview], memory: Mapping[int, memoryview]
    ) -> None:
        """Decode a bundle into some memory like the regions."""
        spans = self.spans(bundle)
        buffers = [memory[s.file][s.offset : s.offset + s.size] for s in spans]
        chunks = []
        for place, chunk, payload in zip(bundle.updates, bundle.chunks, payloads, strict=True):
            update = self.stretch.updates[place]
            key = update.blobs[chunk.blob].key
            crosses = self.files.manifest.crosses(update)
            check_kind(chunk, payload, key, begins=update.source is None, crosses=crosses)
            chunks.append(ChunkPayload(chunk, payload, key))
        self.tools.decode(chunks, self.target.model.layout, spans, buffers)

    def apply(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """Take a bundle whose digests are right; in any thread.

        Raises:
            FormatError: It is malformed.
            IntegrityError: It completed a file, which is not what it should be.
            DiskError: The temporary file cannot be written.
        """
        self.take(bundle, payloads)
        with self._lock:
            del self.missing[bundle.number]
        for file in self._left.done(bundle.chunks[0]):
            self.complete(file)

    @abstractmethod
    def take(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """Decode or keep a bundle."""

    def complete(self, file: int) -> None:
        """All bundles of a file are here."""
        self.check(file)

    def prepare(self) -> None:
        """All bundles are here: do what can be done while the memory is in use."""
        for file in sorted(self._unchecked):
            self.check(file)

    def commit(self) -> None:  # noqa: B027 - nothing to do where it was done as chunks came
        """Let the memory be the next state. Nobody uses it."""

    def finish(self) -> None:  # noqa: B027 - as for commit
        """The commit is done: check what could not be checked before, free what is left."""

    def parts(self, file: int) -> Iterable[memoryview]:
        """The bytes of a file of the next state."""
        for part in self.target.places.files[file]:
            yield from self.bytes_at(part.region, part.at, part.at + part.size)

    def bytes_at(self, region: int, start: int, stop: int) -> Iterable[memoryview]:
        """Some bytes of a region in the next state."""
        return [self.files.regions[region][start:stop]]

    def check(self, file: int) -> None:
        """Compare a complete file with what the manifest states, if it is to be checked."""
        if self.is_checked(file):
            self.files.check(file, self._state, self.parts(file))
        self._unchecked.discard(file)

    def is_checked(self, file: int) -> bool:
        """Whether a file is to be checked."""
        release = self.files.manifest.release(self._state)
        return is_checked(self._check, release, file, release.number(self._state))


class DirectUpdate(StagedUpdate):
    """Bundles are decoded where the model lies, as they come; each file is a region of its own."""

    name = "direct"

    def begin(self) -> None:
        """Begin to take the digests of files that are to be checked."""
        ranges: dict[int, list[tuple[int, int]]] = {n: [] for n in self._unchecked}
        for bundle in self.bundles:
            for span in self.spans(bundle):
                ranges.setdefault(span.file, []).append((span.offset, span.size))
        self._digests = {
            file: RunningDigest(len(memory), ranges[file], partial(_parts, memory))
            for file, memory in self.files.regions.items()
            if file in ranges and self.is_checked(file)
        }

    def take(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """See `StagedUpdate.take`."""
        self.decode(bundle, payloads, self.files.regions)
        for s in self.spans(bundle):
            if s.file in self._digests:
                part = self.files.regions[s.file][s.offset : s.offset + s.size]
                self._digests[s.file].written(s.offset, part)

    def check(self, file: int) -> None:
        """See `StagedUpdate.check`: the digest was taken on the way."""
        if file in self._digests:
            self.files.compare(file, self._state, self._digests[file].hexdigest())
        self._unchecked.discard(file)


def _parts(memory: memoryview, start: int, stop: int) -> list[memoryview]:
    return [memory[at : min(at + _PART, stop)] for at in range(start, stop, _PART)]


def in_threads(run: Callable[[Any], None], items: Sequence[Any], count: int) -> None:
    """Call a function with each item, in several threads; return when all is done."""
    with ThreadPoolExecutor(count, thread_name_prefix="p2u-commit") as pool:
        for _ in pool.map(run, items):
            pass
