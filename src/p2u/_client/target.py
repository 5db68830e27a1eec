"""What both ways of writing an update to disk have in common."""

from __future__ import annotations

import hashlib
import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from p2u._client.decode import decode
from p2u._client.files import PIECE, disk_errors, hash_file, open_file, read_at, sync_file
from p2u._client.journal import DIGEST, Header, Journal
from p2u._client.package import Countdown, Package, Span, chunk_spans
from p2u._client.workdir import WorkDir, target_prefix
from p2u.errors import IntegrityError
from p2u.index import Chunk
from p2u.manifest import Manifest, State, Update


def journal_header(manifest: Manifest, update: Update, *, in_place: bool) -> Header:
    """What the journal of an update says it is about: all that gives its chunks their meaning."""
    digests = {state.id: state.digest for state in manifest.states}
    source = digests[update.source] if update.source is not None else "nothing"
    ends = [state for state in (update.source, update.target) if state is not None]
    layouts = [manifest.release(state).layout.sha256 for state in ends]
    text = " ".join((source, digests[update.target], *layouts, update.index.sha256))
    identity = hashlib.sha256(text.encode()).digest()
    return Header(in_place, identity, target_prefix(digests[update.target]))


def changed_files(manifest: Manifest, update: Update) -> list[int]:
    """Numbers of the target's files that its source does not have at the same path."""
    release = manifest.release(update.target)
    if update.source is None:
        return list(range(len(release.files)))
    before = manifest.release(update.source)
    source, target = before.number(update.source), release.number(update.target)
    there = {(f.path, f.size, f.digest(source)) for f in before.files}
    return [
        n for n, f in enumerate(release.files) if (f.path, f.size, f.digest(target)) not in there
    ]


class Target(ABC):
    """An update on its way to disk.

    Args:
        package: Where it comes from.
        work: The work folder, locked.
        update: The update.
    """

    def __init__(self, package: Package, work: WorkDir, update: Update) -> None:
        self.package = package
        self.work = work
        self.update = update
        self.manifest = package.manifest
        self.state: State = self.manifest.state(update.target)
        self.release = self.manifest.release(self.state)
        self.layout = package.layout(self.release)
        self.changed = changed_files(self.manifest, update)
        self.chunks: tuple[Chunk, ...] = package.index(update).chunks
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
    def source_folder(self) -> Path:
        """Where the previous state's bytes are."""

    @abstractmethod
    def result_folder(self) -> Path:
        """Where the next state's bytes go."""

    @abstractmethod
    def write(
        self, chunk: Chunk, spans: Sequence[Span], buffers: Sequence[memoryview], digest: bytes
    ) -> None:
        """Write a decoded chunk, whose SHA-256 is ``digest``, and note it in the journal."""

    @abstractmethod
    def discard(self) -> None:
        """The result is wrong: let the next run begin anew."""

    def path(self, folder: Path, file: int) -> Path:
        """Path of a file by its number."""
        return folder / self.release.files[file].path

    def start(self, missing: Sequence[Chunk]) -> None:
        """Count what each file still lacks."""
        self._left = Countdown(self.layout, missing)

    def apply(self, chunk: Chunk, payload: memoryview) -> None:
        """Decode and write one chunk; in any thread."""
        spans = chunk_spans(chunk, self.layout)
        with self.package.decoded.lend(sum(span.size for span in spans)) as memory:
            buffers = parts(memory, spans)
            if self.update.source is not None:
                self._read(spans, buffers)
            key = self.update.blobs[chunk.blob].key
            decode(chunk, payload, self.layout, spans, buffers, key)
            digest = hashlib.sha256(memory)
            self.write(chunk, spans, buffers, digest.digest())
        for file in self._left.done(chunk):
            self.check(file)

    def _read(self, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        with disk_errors(self.source_folder(), "read"), Opened(self, False) as opened:
            for span, buffer in zip(spans, buffers, strict=True):
                read_at(opened[span.file], span.offset, buffer)

    def check(self, file: int) -> None:
        """Hash a complete file of the result and make it durable.

        Raises:
            IntegrityError: It is not what the manifest states.
        """
        entry = self.release.files[file]
        path = self.path(self.result_folder(), file)
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
            with Opened(self, True) as opened:
                for span in chunk_spans(chunk, self.layout):
                    for at in range(0, span.size, PIECE):
                        part = buffer[: min(PIECE, span.size - at)]
                        read_at(opened[span.file], span.offset + at, part)
                        digest.update(part)
        except OSError:
            return None
        return digest.digest()[:DIGEST]

    def close(self) -> None:
        """Close the journal."""
        if self.log is not None:
            self.log.close()


def parts(memory: memoryview, spans: Sequence[Span]) -> list[memoryview]:
    """One part of the memory per span, back to back."""
    found = []
    at = 0
    for span in spans:
        found.append(memory[at : at + span.size])
        at += span.size
    return found


class Opened:
    """Files of a target, opened when first asked for and closed together.

    Args:
        target: The target.
        result: Files of the next state, else of the previous.
        mode: ``"rb"`` or ``"rb+"``.
    """

    def __init__(self, target: Target, result: bool, mode: str = "rb") -> None:
        self._target = target
        self._folder = target.result_folder() if result else target.source_folder()
        self._mode = mode
        self._files: dict[int, io.FileIO] = {}
        self._stack = ExitStack()

    def __getitem__(self, file: int) -> io.FileIO:
        if file not in self._files:
            path = self._target.path(self._folder, file)
            self._files[file] = self._stack.enter_context(open_file(path, self._mode))
        return self._files[file]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
