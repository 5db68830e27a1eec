"""Write the chunks of an update to a target; the common part of swapping and in place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from p2u.client.folder.journal import DIGEST, Header, Journal
from p2u.client.folder.local import FoundState
from p2u.client.folder.work_folder import WorkFolder, target_prefix
from p2u.client.transfer.package_reader import PackageReader
from p2u.codec.chunk import ChunkDecoding, UpdateEnds
from p2u.disk.durable import sync_file
from p2u.disk.errors import disk_errors
from p2u.disk.files import PIECE, hash_file, open_file, read_all_at
from p2u.errors import IntegrityError
from p2u.package.geometry import Chunk, Countdown, Span, all_spans, chunk_spans
from p2u.package.manifest import Manifest, State, Update, changed_files
from p2u.package.mapping import identity


def journal_header(manifest: Manifest, update: Update, *, in_place: bool) -> Header:
    """The journal's header for an update: all that gives its chunks their meaning."""
    digests = {state.id: state.digest for state in manifest.states}
    source = digests[update.source] if update.source is not None else "nothing"
    ends = [state for state in (update.source, update.target) if state is not None]
    layouts = [manifest.release(state).layout.sha256 for state in ends]
    text = " ".join((source, digests[update.target], *layouts, update.index.sha256))
    identity = hashlib.sha256(text.encode()).digest()
    return Header(in_place, identity, target_prefix(digests[update.target]))


class Target(ABC):
    """An update that is written to disk.

    Args:
        package: Where it comes from.
        work: The work folder, locked.
        update: The update.
        parent: The state that it begins at; None for nothing.
    """

    def __init__(
        self, package: PackageReader, work: WorkFolder, update: Update, parent: FoundState | None
    ) -> None:
        self.package = package
        self.work = work
        self.update = update
        self.parent = parent
        self.manifest = package.manifest
        self.state: State = self.manifest.state(update.target)
        self.release = self.manifest.release(self.state)
        self.model = package.target(update)
        self.layout = self.model.layout
        index = package.index(update)
        self.chunks: tuple[Chunk, ...] = index.chunks
        #: `model` itself if the update is a refinement; None if it begins at nothing.
        self.source = package.source(update)
        if self.source is not None and not self.manifest.crosses(update):
            self.source = self.model
        self.map = index.map or identity(self.model)
        self._ends = UpdateEnds(self.model, self.source, self.map)
        written = {span.file for span in all_spans(self.chunks, self.layout)}
        self.changed = sorted(written.union(changed_files(self.manifest, update)))
        self._number = self.release.number(self.state)
        self._lock = threading.Lock()
        self._left = Countdown(self.layout)
        self._checked: set[int] = set()
        self.log: Journal | None = None

    @abstractmethod
    def prepare(self) -> list[Chunk]:
        """Set up or go on with files and journal; returns the chunks that are missing."""

    @abstractmethod
    def finish(self) -> None:
        """All chunks are applied: check, make durable, and let the target be the new state."""

    @abstractmethod
    def result_folder(self) -> Path:
        """The folder that receives the next state's bytes."""

    @abstractmethod
    def write(
        self, chunk: Chunk, spans: Sequence[Span], buffers: Sequence[memoryview], digest: bytes
    ) -> None:
        """Write a decoded chunk, whose SHA-256 is ``digest``, and note it in the journal."""

    def discard(self) -> None:
        """The result is wrong: let the next run begin anew.

        In place, the state file still says that this is no known state.
        """
        with contextlib.suppress(OSError):
            self.work.journal.unlink()

    def result(self, file: int) -> Path:
        """The path of the next state's file with this number."""
        return self.result_folder() / self.release.files[file].path

    def before(self, file: int) -> Path:
        """The path of the source's file with this number."""
        assert self.parent is not None
        return self.parent.paths[file]

    def start(self, missing: Sequence[Chunk]) -> None:
        """Count what each file still lacks."""
        self._left = Countdown(self.layout, missing)

    def apply(self, chunk: Chunk, payload: memoryview) -> None:
        """Decode and write one chunk; in any thread."""
        decoding = ChunkDecoding(chunk, payload, self._ends, self.update.blobs[chunk.blob].key)
        with self.package.decoded.lend(decoding.memory) as memory:
            buffers = decoding.run(memory, self._read)
            digest = hashlib.sha256(memory[: decoding.size])
            self.write(chunk, decoding.spans, buffers, digest.digest())
        for file in self._left.done(chunk):
            self.check(file)

    def _read(self, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        with disk_errors(self.before(spans[0].file), "read"), Opened(self.before) as opened:
            for span, buffer in zip(spans, buffers, strict=True):
                read_all_at(opened[span.file], span.offset, buffer)

    def check(self, file: int) -> None:
        """Hash a complete file of the result and make it durable.

        Raises:
            IntegrityError: It is not what the manifest states.
        """
        entry = self.release.files[file]
        path = self.result(file)
        with disk_errors(path, "read"):
            found = hash_file(path, self.package.stop.check)
        if found != entry.digest(self._number):
            self.discard()
            raise IntegrityError(
                f"SHA-256 {found} after the update to {self.state.label}, expected "
                f"{entry.digest(self._number)}",
                file=entry.path,
                hint="The disk, or the program that made the package, is faulty. Pull again, and "
                "verify the package",
            )
        with disk_errors(path):
            sync_file(path)
        with self._lock:
            self._checked.add(file)

    def check_all(self) -> None:
        """Check the changed files that were not checked yet."""
        for file in self.changed:
            if file not in self._checked:
                self.check(file)

    def confirmed(self, claims: dict[int, bytes]) -> dict[int, bytes]:
        """Those of a journal's claims that the bytes on the disk bear out."""
        valid = [(n, digest) for n, digest in claims.items() if n < len(self.chunks)]

        def holds(claim: tuple[int, bytes]) -> bool:
            self.package.stop.check()
            return self._digest_on_disk(self.chunks[claim[0]]) == claim[1]

        with ThreadPoolExecutor(self.package.fetcher.jobs) as pool:
            return {
                claim[0]: claim[1]
                for claim, ok in zip(valid, pool.map(holds, valid), strict=True)
                if ok
            }

    def _digest_on_disk(self, chunk: Chunk) -> bytes | None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(PIECE))
        try:
            with Opened(self.result) as opened:
                for span in chunk_spans(chunk, self.layout):
                    for at in range(0, span.size, PIECE):
                        part = buffer[: min(PIECE, span.size - at)]
                        read_all_at(opened[span.file], span.offset + at, part)
                        digest.update(part)
        except OSError:
            return None
        return digest.digest()[:DIGEST]

    def close(self) -> None:
        """Close the journal."""
        if self.log is not None:
            self.log.close()


class Opened:
    """Files opened when first asked for, by their number, and closed together.

    Args:
        path: Where the file with a number is.
        mode: ``"rb"`` or ``"rb+"``.
    """

    def __init__(self, path: Callable[[int], Path], mode: str = "rb") -> None:
        self._path = path
        self._mode = mode
        self._files: dict[int, io.FileIO] = {}
        self._stack = ExitStack()

    def __getitem__(self, file: int) -> io.FileIO:
        if file not in self._files:
            found = open_file(self._path(file), self._mode)
            self._files[file] = self._stack.enter_context(found)
        return self._files[file]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
