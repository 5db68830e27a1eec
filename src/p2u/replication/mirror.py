"""``p2u.mirror``: copy a package from any store to any other, resumable and verified."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from p2u.disk.errors import TRY_AGAIN, disk_errors
from p2u.disk.scratch import TemporaryFolder
from p2u.errors import ConflictError, IntegrityError, UsageError
from p2u.package.geometry import Chunk
from p2u.package.index import parse_index
from p2u.package.keys import keys, sizes, with_keys
from p2u.package.layout import ReleaseLayout, parse_layout
from p2u.package.manifest import MAX_MANIFEST, Blob, Manifest, Object, Update
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY
from p2u.replication.publication import Publication
from p2u.stores import Store, open_store, open_writable
from p2u.stores.backoff import Retry
from p2u.stores.local import LocalStore
from p2u.stores.retrying import Pause, Retrying, with_retries
from p2u.stores.schemes import scheme_of
from p2u.stores.upload import JOBS, upload_one
from p2u.stores.writable import WritableStore, size_of

_DAMAGED = "The package is damaged or was replaced meanwhile: check it with `p2u verify`"


@dataclass(frozen=True, slots=True)
class MirrorResult:
    """The result of a copy.

    Attributes:
        versions: Those that the destination has now.
        copied: Objects that were copied, without the manifest.
        bytes: Their size.
        there: Objects that were there already.
    """

    versions: tuple[str, ...]
    copied: int
    bytes: int
    there: int


@dataclass(frozen=True, slots=True)
class MirrorProgress:
    """How far a copy has come.

    Attributes:
        phase: ``"copy"``.
        done: Bytes that are at the destination.
        total: Bytes that were not there before.
    """

    phase: str
    done: int
    total: int


def mirror(
    source: str | os.PathLike[str] | Store,
    target: str | os.PathLike[str] | WritableStore,
    *,
    replace: bool = False,
    progress: Callable[[MirrorProgress], None] | None = None,
    retry: Retry | None = None,
) -> MirrorResult:
    """Copy a package, so that the destination has what the source has.

    Every byte is compared with its digest before it is put: the manifest's for layouts and indices,
    the index's for chunks. The manifest comes last, and on condition. Run it again to go on where
    a killed one was; objects that are there are not copied again.

    Args:
        source: Path, URL or open store of a package. An open one is left open.
        target: Path, URL or open store; made if there is no package.
        replace: Replace a package whose newest version the source does not have.
        progress: Called in several threads as objects arrive.
        retry: When to try again.

    Raises:
        ConflictError: The destination has another package, or newer versions than the source, or
            somebody published to it meanwhile.
        IntegrityError: An object of the source is damaged. What was copied stays for the next run.
        StoreError, DiskError, FormatError: One of them cannot be read or written.
    """
    retry = retry or Retry()
    with ExitStack() as stack:
        if not isinstance(source, Store):
            source = stack.enter_context(open_store(source))
        if not isinstance(target, WritableStore):
            target = stack.enter_context(open_writable(target))
        return _Copy(source, target, retry, progress).run(replace=replace)


def push(
    package: str | os.PathLike[str],
    target: str | os.PathLike[str] | WritableStore,
    *,
    replace: bool = False,
    progress: Callable[[MirrorProgress], None] | None = None,
    retry: Retry | None = None,
) -> MirrorResult:
    """Upload a package of this machine; see `mirror`.

    Args:
        package: Its folder.
        target: See `mirror`.
        replace: See `mirror`.
        progress: See `mirror`.
        retry: See `mirror`.

    Raises:
        UsageError: ``package`` is not a folder.
        The errors of `mirror`.
    """
    if scheme_of(package) not in (None, "file"):
        raise UsageError("is not on this machine", file=os.fspath(package), hint="Use `p2u mirror`")
    return mirror(package, target, replace=replace, progress=progress, retry=retry)


class _Copy:
    """One run of `mirror`."""

    def __init__(
        self,
        source: Store,
        target: WritableStore,
        retry: Retry,
        progress: Callable[[MirrorProgress], None] | None,
    ) -> None:
        self._local = source if isinstance(source, LocalStore) else None
        self._pause = Pause()
        self._source = Retrying(source, retry, self._pause)
        self._target = target
        self._retry = retry
        self._progress = progress
        self._lock = Lock()
        self._done = self._total = self._copied = self._bytes = 0
        self._names: dict[str, str] = {}

    def run(self, *, replace: bool) -> MirrorResult:
        """Copy all."""
        data = self._source.read(MANIFEST_KEY, limit=MAX_MANIFEST)
        manifest = parse_manifest(data)
        publication = Publication(self._target, self._retry)
        before = publication.manifest
        publication.clean()
        if before is not None and not replace:
            self._check_ancestor(before, manifest)
        here = _same_objects(before, manifest) if before is not None else set()
        known = sizes(manifest)
        wanted = {key for key in known if key not in here}
        self._total = sum(known[key] for key in wanted)
        publication.announce(wanted)
        with self._scratch() as folder:
            self._copy_all(manifest, wanted, folder)
        if self._names:
            manifest = with_keys(manifest, self._names)
            publication.announce(set(self._names.values()))
        if manifest != before:
            publication.commit(manifest, {})
        versions = tuple(release.version for release in manifest.releases if not release.foreign)
        return MirrorResult(versions, self._copied, self._bytes, len(known) - self._copied)

    def _check_ancestor(self, before: Manifest, after: Manifest) -> None:
        """Raise ConflictError if the destination has a version that would be lost."""
        newest = before.latest
        digests = {release.states[-1].digest for release in after.releases}
        if newest.states[-1].digest not in digests:
            raise ConflictError(
                f"has the version {newest.version} of {before.name!r}, which the source lacks",
                file=self._target.url,
                hint="Choose another destination, or --replace to drop that version",
            )

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with ExitStack() as stack:
            with disk_errors(tempfile.gettempdir(), "write", TRY_AGAIN):
                folder = stack.enter_context(TemporaryFolder("p2u-mirror"))
            yield folder.path

    def _copy_all(self, manifest: Manifest, wanted: set[str], folder: Path) -> None:
        """Copy objects: what describes an update first, then its blobs in parallel."""
        layouts = {release.version: release for release in manifest.releases}
        small = {release.layout.key: release.layout for release in layouts.values()}
        small |= {update.index.key: update.index for update in manifest.updates}
        with ThreadPoolExecutor(JOBS, thread_name_prefix="p2u-mirror") as pool:
            tasks = [
                pool.submit(self._copy_object, found)
                for key, found in small.items()
                if key in wanted
            ]
            for update in manifest.updates:
                blobs = {blob.key: blob for blob in update.blobs if blob.key in wanted}
                if not blobs:
                    continue
                chunks = self._chunks(manifest, update)
                tasks += [
                    pool.submit(self._copy_blob, blob, chunks[number], folder)
                    for number, blob in enumerate(update.blobs)
                    if blob.key in blobs
                ]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                self._pause.end()
                for task in tasks:
                    task.cancel()
                raise

    def _chunks(self, manifest: Manifest, update: Update) -> list[list[Chunk]]:
        """The chunks of each blob of an update, in their order."""

        def model(state: str) -> ReleaseLayout:
            release = manifest.release(state)
            return ReleaseLayout(release, parse_layout(self._object(release.layout), release))

        source = None
        if update.source is not None and manifest.crosses(update):
            source = model(update.source)
        index = parse_index(self._object(update.index), update, model(update.target), source)
        found: list[list[Chunk]] = [[] for _ in update.blobs]
        for chunk in index.chunks:
            found[chunk.blob].append(chunk)
        return [sorted(chunks, key=lambda chunk: chunk.start) for chunks in found]

    def _object(self, wanted: Object) -> bytes:
        """An object that has a digest."""
        for _ in range(2):
            data = self._source.read(wanted.key, limit=wanted.size)
            if len(data) == wanted.size and hashlib.sha256(data).hexdigest() == wanted.sha256:
                return data
        raise IntegrityError(
            "is not the object that the manifest names",
            file=f"{self._source.url}/{wanted.key}",
            hint=_DAMAGED,
        )

    def _copy_object(self, wanted: Object) -> None:
        found = with_retries(lambda: self._target.find(wanted.key), self._retry, self._pause)
        if found is None or (found.size, found.sha256) != (wanted.size, wanted.sha256):
            self._put(wanted.key, self._object(wanted))
        self._arrived(wanted.size)

    def _copy_blob(self, blob: Blob, chunks: list[Chunk], folder: Path) -> None:
        found = with_retries(lambda: self._target.find(blob.key), self._retry, self._pause)
        there = found is not None and found.size == blob.size
        if there and _is_right(self._target, blob, chunks, self._retry, None):
            self._arrived(blob.size)
            return
        if self._local is not None:
            if not _is_right(self._local, blob, chunks, self._retry, None):
                raise self._damaged(blob)
            self._put(blob.key, self._local.locate(blob.key))
        else:
            path = folder / hashlib.sha256(blob.key.encode()).hexdigest()
            try:
                # Once more: the bytes may have been damaged on the way.
                if not any(
                    _is_right(self._source.store, blob, chunks, self._retry, path) for _ in range(2)
                ):
                    raise self._damaged(blob)
                self._put(blob.key, path)
            finally:
                path.unlink(missing_ok=True)
        self._arrived(blob.size)

    def _damaged(self, blob: Blob) -> IntegrityError:
        return IntegrityError(
            "has a chunk with another digest than the index states",
            file=f"{self._source.url}/{blob.key}",
            hint=_DAMAGED,
        )

    def _put(self, key: str, content: bytes | Path) -> None:
        name, put = upload_one(self._target, key, content, self._retry, self._pause)
        with self._lock:
            if name != key:
                self._names[key] = name
            if put:
                self._copied += 1
                self._bytes += size_of(content)

    def _arrived(self, size: int) -> None:
        with self._lock:
            self._done += size
            done = self._done
        if self._progress is not None:
            self._progress(MirrorProgress("copy", done, self._total))


def _same_objects(before: Manifest, after: Manifest) -> set[str]:
    """Keys that two manifests have with the same content, as their digests say."""

    def known(manifest: Manifest) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {
            release.layout.key: (release.layout.sha256,) for release in manifest.releases
        }
        for update in manifest.updates:
            found[update.index.key] = (update.index.sha256,)
            for number, blob in enumerate(update.blobs):
                found[blob.key] = (update.index.sha256, str(number), str(blob.size))
        return found

    here, there = known(before), known(after)
    return {key for key in keys(before) & here.keys() if there.get(key) == here[key]}


def _is_right(
    store: Store, blob: Blob, chunks: list[Chunk], retry: Retry, path: Path | None
) -> bool:
    """Read a blob, to a file if a path is given; whether all of its chunks have their digests."""
    with ExitStack() as stack:
        file = None
        if path is not None:
            stack.enter_context(disk_errors(path, "write", TRY_AGAIN))
            file = stack.enter_context(open(path, "wb"))
        pieces = stack.enter_context(closing(Retrying(store, retry).stream(blob.key, 0, blob.size)))

        def written() -> Iterable[bytes]:
            for piece in pieces:
                if file is not None:
                    file.write(piece)
                yield piece

        return _digests_fit(written(), chunks)


def _digests_fit(pieces: Iterable[bytes], chunks: list[Chunk]) -> bool:
    """Whether the bytes of a blob are those of its chunks; all pieces are read."""
    waiting = iter(chunks)
    chunk = next(waiting, None)
    digest, at, right = hashlib.sha256(), 0, True
    for piece in pieces:
        view = memoryview(piece)
        while chunk is not None and at + len(view) > chunk.start:
            skipped = max(0, chunk.start - at)
            part = view[skipped : chunk.start + chunk.length - at]
            digest.update(part)
            if at + len(view) < chunk.start + chunk.length:
                break
            used = skipped + len(part)
            view, at = view[used:], at + used
            right &= digest.digest() == chunk.sha256
            digest, chunk = hashlib.sha256(), next(waiting, None)
        at += len(view)
    while chunk is not None and chunk.length == 0:
        right &= digest.digest() == chunk.sha256
        chunk = next(waiting, None)
    return right and chunk is None
