"""Write the bundles of a stretch to a target; the common part of swapping and in place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from p2u.client.folder.journal import Header, Journal, checksum
from p2u.client.folder.local import FoundState
from p2u.client.folder.work_folder import WorkFolder, target_prefix
from p2u.client.routes import stretches
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Bundle
from p2u.client.transfer.checking import is_checked
from p2u.client.transfer.package_reader import PackageReader
from p2u.client.transfer.running_digest import RunningDigest
from p2u.codec.chunk import ChunkDecoding, ChunkPayload, UpdateEnds
from p2u.disk.durable import EarlySync, sync_file
from p2u.disk.errors import disk_errors
from p2u.disk.files import PIECE, open_file, read_all_at
from p2u.errors import FormatError, IntegrityError
from p2u.package.geometry import Chunk, Countdown, Span, all_spans, chunk_spans
from p2u.package.manifest import Manifest, State, changed_files
from p2u.package.mapping import identity

#: Files that one thread has open at a time.
MOST_OPEN = 8


def journal_header(manifest: Manifest, stretch: Stretch, *, in_place: bool) -> Header:
    """The journal's header for a stretch: all that gives its bundles their meaning."""
    source = "nothing" if stretch.source is None else manifest.state(stretch.source).digest
    target = manifest.state(stretch.target).digest
    ends = [state for state in (stretch.source, stretch.target) if state is not None]
    layouts = [manifest.release(state).layout.sha256 for state in ends]
    indices = [update.index.sha256 for update in stretch.updates]
    text = " ".join((source, target, *layouts, *indices))
    identity = hashlib.sha256(text.encode()).digest()
    return Header(in_place, identity, target_prefix(target))


class Target(ABC):
    """A stretch that is written to disk.

    Args:
        package: Where it comes from.
        work: The work folder, locked.
        stretch: The stretch.
        parent: The state that it begins at; None for nothing.
        check: Which files are compared with their digest, see `is_checked`.
    """

    def __init__(
        self,
        package: PackageReader,
        work: WorkFolder,
        stretch: Stretch,
        parent: FoundState | None,
        check: str,
    ) -> None:
        self.package = package
        self.work = work
        self.stretch = stretch
        self.parent = parent
        self.manifest = package.manifest
        self.state: State = self.manifest.state(stretch.target)
        self.release = self.manifest.release(self.state)
        self.update = stretch.updates[0]
        self.model = package.target(self.update)
        self.layout = self.model.layout
        index = package.index(self.update)
        found = stretches.bundles(package, stretch)
        assert found is not None, "whoever chose the stretch has looked at its bundles"
        self.bundles: tuple[Bundle, ...] = found
        #: Those of the first update, which brings all bytes that the others change.
        self.chunks: tuple[Chunk, ...] = index.chunks
        #: `model` itself if the update is a refinement; None if it begins at nothing.
        self.source = package.source(self.update)
        if self.source is not None and not self.manifest.crosses(self.update):
            self.source = self.model
        self.map = index.map or identity(self.model)
        self._ends = UpdateEnds(self.model, self.source, self.map)
        written = {span.file for span in all_spans(self.chunks, self.layout)}
        for update in stretch.updates:
            written.update(changed_files(self.manifest, update))
        self._number = number = self.release.number(self.state)
        self.changed: list[int] = []
        self._changed: set[int] = set()
        #: Numbers of the files that are compared with their digest.
        self._checked: set[int] = set()
        self.make({n: is_checked(check, self.release, n, number) for n in written})
        self._lock = threading.Lock()
        self._left = Countdown(self.layout)
        self._complete: set[int] = set()
        self._digests: dict[int, RunningDigest] = {}
        self._early = EarlySync()
        self.log: Journal | None = None

    @abstractmethod
    def prepare(self) -> list[Bundle]:
        """Set up or go on with files and journal; returns the bundles that are missing."""

    @abstractmethod
    def finish(self) -> None:
        """All bundles are applied: check, make durable, and let the target be the new state."""

    @abstractmethod
    def result_folder(self) -> Path:
        """The folder that receives the next state's bytes."""

    @abstractmethod
    def write(self, bundle: Bundle, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        """Write a decoded bundle, and note it in the journal."""

    def make(self, files: dict[int, bool]) -> None:
        """Make these files anew; for each, whether it is compared with its digest."""
        self.changed, self._changed = sorted(files), set(files)
        self._checked = {file for file, checked in files.items() if checked}

    def discard(self) -> None:
        """The result is wrong: let the next run begin anew.

        In place, the state file still says that this is no known state.
        """
        with contextlib.suppress(OSError):
            self.work.journal.unlink()
        self.doubt()

    def doubt(self) -> None:  # noqa: B027 - in place, the files are of no known state
        """Let the next look read the files that the stretch begins at."""

    def result(self, file: int) -> Path:
        """The path of the next state's file with this number."""
        return self.result_folder() / self.release.files[file].path

    def before(self, file: int) -> Path:
        """The path of the source's file with this number."""
        assert self.parent is not None
        return self.parent.paths[file]

    def start(self, done: Sequence[int]) -> list[Bundle]:
        """Count what each file still lacks, and begin to take its digest.

        Args:
            done: Numbers of the bundles whose bytes are there.

        Returns:
            The missing bundles.
        """
        here = set(done)
        missing = [bundle for bundle in self.bundles if bundle.number not in here]
        self.package.meter.add(sum(b.length for b in self.bundles if b.number in here))
        first = [bundle.chunks[0] for bundle in missing]
        self._left = Countdown(self.layout, first)
        ranges: dict[int, list[tuple[int, int]]] = {file: [] for file in self._checked}
        for span in all_spans(first, self.layout):
            if span.file in ranges:
                ranges[span.file].append((span.offset, span.size))
        for file, found in ranges.items():
            size = self.release.files[file].size
            self._digests[file] = RunningDigest(size, found, partial(self._read_back, file))
        return missing

    def _read_back(self, file: int, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes of the result, in parts."""
        path = self.result(file)
        buffer = memoryview(bytearray(min(PIECE, stop - start)))
        with disk_errors(path, "read"), open_file(path, "rb") as opened:
            for at in range(start, stop, PIECE):
                self.package.stop.check()
                part = buffer[: min(PIECE, stop - at)]
                read_all_at(opened, at, part)
                yield part

    def apply(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """Decode and write one bundle; in any thread."""
        decoding = self._decoding(bundle, payloads)
        with self.package.decoded.lend(decoding.memory) as memory:
            try:
                buffers = decoding.run(memory, self._read)
            except FormatError:
                # Chunks may be refused because of the bytes that they are applied to.
                self.doubt()
                raise
            made = [(s, b) for s, b in zip(decoding.spans, buffers, strict=True) if self.makes(s)]
            self.write(bundle, [span for span, _ in made], [buffer for _, buffer in made])
            for span, buffer in made:
                self._early.wrote(self.result(span.file), span.size)
                if span.file in self._checked:
                    self._digests[span.file].written(span.offset, buffer)
        for file in self._left.done(bundle.chunks[0]):
            if file in self._changed:
                self.complete(file)

    def makes(self, span: Span) -> bool:
        """Whether a span is of a file that is made anew."""
        return span.file in self._changed

    def _decoding(self, bundle: Bundle, payloads: Sequence[memoryview]) -> ChunkDecoding:
        chunks = [
            ChunkPayload(chunk, payload, self._key(bundle, place))
            for place, (chunk, payload) in enumerate(zip(bundle.chunks, payloads, strict=True))
        ]
        # Pieces are whole in each update: only the last one's count.
        first, *later = chunks[-1:] if chunks[0].chunk.pieces else chunks
        return ChunkDecoding(first.chunk, first.payload, self._ends, first.key, later)

    def _key(self, bundle: Bundle, place: int) -> str:
        update = self.stretch.updates[bundle.updates[place]]
        return update.blobs[bundle.chunks[place].blob].key

    def _read(self, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        with disk_errors(self.before(spans[0].file), "read"), Opened(self.before) as opened:
            for span, buffer in zip(spans, buffers, strict=True):
                read_all_at(opened[span.file], span.offset, buffer)

    def complete(self, file: int) -> None:
        """Compare a complete file of the result with its digest, and make it durable.

        Raises:
            IntegrityError: It is not what the manifest states.
        """
        entry = self.release.files[file]
        path = self.result(file)
        found = expected = entry.digest(self._number)
        if file in self._checked:
            found = self._digests[file].hexdigest()
        if found != expected:
            self.discard()
            raise IntegrityError(
                f"SHA-256 {found} after the update to {self.state.label}, expected {expected}",
                file=entry.path,
                hint="The disk, or the program that made the package, is faulty. Pull again, and "
                "verify the package",
            )
        with disk_errors(path):
            sync_file(path)
        with self._lock:
            self._complete.add(file)

    def complete_all(self) -> None:
        """Do so for the changed files that were not complete yet."""
        for file in self.changed:
            if file not in self._complete:
                self.complete(file)
        with disk_errors(self.work.path):
            self._early.end()

    def confirmed(self, claims: dict[int, int]) -> list[int]:
        """The numbers of those of a journal's claims that the bytes on the disk bear out."""
        valid = [(n, found) for n, found in claims.items() if n < len(self.bundles)]

        def holds(claim: tuple[int, int]) -> bool:
            self.package.stop.check()
            return self._checksum_on_disk(self.bundles[claim[0]]) == claim[1]

        with ThreadPoolExecutor(self.package.fetcher.jobs) as pool:
            return [claim[0] for claim, ok in zip(valid, pool.map(holds, valid), strict=True) if ok]

    def _checksum_on_disk(self, bundle: Bundle) -> int | None:
        found = 0
        buffer = memoryview(bytearray(PIECE))
        try:
            with Opened(self.result) as opened:
                for span in chunk_spans(bundle.chunks[0], self.layout):
                    for at in range(0, span.size, PIECE):
                        part = buffer[: min(PIECE, span.size - at)]
                        read_all_at(opened[span.file], span.offset + at, part)
                        found = checksum((part,), found)
        except OSError:
            return None
        return found

    def close(self) -> None:
        """Close the journal."""
        with contextlib.suppress(OSError):  # raised where all is complete
            self._early.end()
        if self.log is not None:
            self.log.close()


class Opened:
    """Files opened when first asked for, by their number, and closed together.

    A chunk may be of hundreds of files, and a process may have few open (256 on macOS): the one
    that was opened first is closed when there are too many.

    Args:
        path: Where the file with a number is.
        mode: ``"rb"`` or ``"rb+"``.
    """

    def __init__(self, path: Callable[[int], Path], mode: str = "rb") -> None:
        self._path = path
        self._mode = mode
        self._files: dict[int, io.FileIO] = {}

    def __getitem__(self, file: int) -> io.FileIO:
        if file not in self._files:
            if len(self._files) == MOST_OPEN:
                self._files.pop(next(iter(self._files))).close()
            self._files[file] = open_file(self._path(file), self._mode)
        return self._files[file]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()
