"""Read a package: its manifest, and its layouts and indices when they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from p2u.cache.settings import is_offline
from p2u.client.transfer.bundles import Wanted
from p2u.client.transfer.control import Buffers, Meter, Stop
from p2u.client.transfer.fetch import Fetcher, Following
from p2u.client.transfer.options import DEFAULT_OPTIONS, TransferOptions
from p2u.disk.durable import replace_file
from p2u.disk.errors import disk_errors
from p2u.errors import FormatError, LimitError
from p2u.package.index import Index, parse_index
from p2u.package.layout import Layout, ReleaseLayout, parse_layout
from p2u.package.manifest import MAX_MANIFEST, Manifest, Object, Release, Update
from p2u.package.manifest_parse import parse_manifest
from p2u.package.mapping import aligned
from p2u.package.paths import MANIFEST_KEY
from p2u.stores import Store, ThrottledStore, open_store

if TYPE_CHECKING:
    from p2u.cache.store import CachedStore

#: Bytes of layouts and indices that are kept as they came.
KEPT = 8 << 20
#: Indices that are kept parsed: two threads may want the next, or all of a stretch.
INDICES = 4
#: Most blobs of an update that are looked for before it is begun.
PROBED = 16
#: Bytes of decoded chunks that all threads together hold; a single larger chunk may exceed it.
DECODED = 12 << 20


class PackageReader:
    """A package in a store, with the threads to read it.

    Args:
        source: Path or URL, or a store; a store is closed with this object too.
        options: How to fetch.
        stop: Ends all reading early.
        known: This package as it was opened before: objects that it read are not read again, and
            its meter counts on.
        total: Counts what is read here together with others.

    Raises:
        The errors of ``open_store``. Nothing is read yet.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Store,
        options: TransferOptions = DEFAULT_OPTIONS,
        *,
        stop: Stop | None = None,
        known: PackageReader | None = None,
        total: Meter | None = None,
    ) -> None:
        self.options = options
        self.stop = stop or Stop()
        self.meter: Meter = known.meter if known else Meter(total)
        store = source if isinstance(source, Store) else open_store(source)
        self.url = store.url
        limiter = options.limiter()
        if limiter is not None:
            self.stop.on_call(limiter.cancel)
            store = ThrottledStore(store, limiter)
        #: Where the cache keeps what comes; None: it keeps nothing of this package.
        self.cached: CachedStore | None = None
        if store.remote and (options.cache is not False or is_offline()):
            from p2u.cache.store import cached_store

            self.cached = cached_store(store, options.cache or True, self.meter.hit)
            store = self.cached or store
        #: Digests of the indices whose payloads the cache knows.
        self._described: set[str] = set()
        self.stop.on_call(store.close)
        self.store = store
        self.fetcher = Fetcher(store, options, self.stop, self.meter)
        self.fetcher.cached = self.cached
        #: Memory for decoded chunks on their way to disk.
        self.decoded = Buffers(DECODED, self.stop)
        #: A folder that keeps layout and indices for the next run; their digests are checked.
        self.cache: Path | None = None
        self._cache_lock = Lock()
        self._manifest: Manifest | None = known._manifest if known else None
        #: By version.
        self._layouts: dict[str, Layout] = known._layouts if known else {}
        #: By digest: layouts and indices. Releases may share a layout.
        self._kept: dict[str, bytes] = known._kept if known else {}
        #: By digest: size of those that were counted as progress.
        self._counted: dict[str, int] = known._counted if known else {}
        self._index_lock = Lock()
        #: By digest: the indices asked for last, parsed.
        self._indices: dict[str, Index] = known._indices if known else {}
        #: By digest: what is being read ahead.
        self._coming: dict[str, Future[bytes]] = {}
        for digest, coming in known._coming.items() if known else ():
            if coming.done() and coming.exception() is None:
                self._coming[digest] = coming

    @property
    def manifest(self) -> Manifest:
        """The manifest, read when it is first asked for."""
        if self._manifest is None:
            self._manifest = self._parse(self.fetcher.read(MANIFEST_KEY, MAX_MANIFEST))
        return self._manifest

    def _parse(self, data: bytes) -> Manifest:
        """The manifest in a text, which the cache keeps; errors name its URL."""
        try:
            manifest = parse_manifest(data)
        except FormatError as error:
            if error.file == MANIFEST_KEY:
                error.file = f"{self.url}/{MANIFEST_KEY}"
            raise
        if self.cached is not None and not self.cached.cache.offline:
            self.cached.cache.manifests.put(self.url, data)
        return manifest

    @property
    def known_manifest(self) -> Manifest | None:
        """The manifest if it has been read."""
        return self._manifest

    def renew(self, mark: str) -> str:
        """Read the manifest again unless it is still the one of a mark; returns the next mark."""
        data, mark = self.fetcher.poll(MANIFEST_KEY, MAX_MANIFEST, mark)
        if data is not None:
            manifest = self._parse(data)
            if manifest != self._manifest:
                self._manifest = manifest
                self._layouts = {}  # versions may have other ones; objects stay, by digest
        return mark

    def layout(self, release: Release) -> Layout:
        """The tensors of a release, read when they are first asked for."""
        with self._index_lock:
            return self._read_layout(release)

    def _read_layout(self, release: Release) -> Layout:
        if release.version not in self._layouts:
            size = sum(file.size for file in release.files)
            self._check_limit(size, f"the files of {release.version} have")
            self._layouts[release.version] = parse_layout(self._object(release.layout), release)
        return self._layouts[release.version]

    def model(self, release: Release) -> ReleaseLayout:
        """A release and its tensors."""
        return ReleaseLayout(release, self.layout(release))

    def source(self, update: Update) -> ReleaseLayout | None:
        """The release that an update begins at; None for nothing."""
        return None if update.source is None else self.model(self.manifest.release(update.source))

    def target(self, update: Update) -> ReleaseLayout:
        """The release that an update leads to."""
        return self.model(self.manifest.release(update.target))

    def index(self, update: Update) -> Index:
        """The chunks of an update, and its map."""
        target = self.target(update)
        source = self.source(update) if self.manifest.crosses(update) else None
        with self._index_lock:
            found = self._indices.pop(update.index.sha256, None)
            if found is None:
                found = parse_index(self._object(update.index), update, target, source)
            while len(self._indices) >= INDICES:
                del self._indices[next(iter(self._indices))]
            self._indices[update.index.sha256] = found
            self._describe(update, found)
            return found

    def _describe(self, update: Update, index: Index) -> None:
        """Name the digests of an update's payloads to the cache."""
        if self.cached is None or update.index.sha256 in self._described:
            return
        self._described.add(update.index.sha256)
        ranges: dict[int, list[tuple[int, int, str]]] = {}
        for c in index.chunks:
            found = c.start, c.start + c.length, c.sha256.hex()
            ranges.setdefault(c.blob, []).append(found)
        for blob, held in ranges.items():
            self.cached.describe(update.blobs[blob].key, held)

    def is_cached(self, update: Update) -> bool | None:
        """Whether the cache has all payloads of an update; None: it has some of them."""
        here = self.cached_bytes(update)
        return None if 0 < here < update.bytes else here == update.bytes

    def cached_bytes(self, update: Update) -> int:
        """How many bytes of an update's payloads the cache has; asks nothing of the store."""
        if self.cached is None or not self.cached.cache.objects.has(update.index.sha256):
            return 0
        has = self.cached.cache.objects.has
        return sum(c.length for c in self.index(update).chunks if has(c.sha256.hex()))

    def aligned(self, update: Update) -> bool:
        """Whether all bytes are at the same place before and after an update."""
        source = self.source(update)
        if source is None or not self.manifest.crosses(update):
            return source is not None
        found = self.index(update).map
        return found is not None and aligned(self.target(update), source, found)

    def following(self, update: Update) -> Following:
        """An update for `Fetcher.run` to begin ahead."""
        return lambda: Wanted.of(update.blobs, self.index(update).chunks)

    def look_ahead(self, update: Update) -> None:
        """Begin to read what `index` needs for an update, so that nobody waits for round trips."""
        for item in self._objects(update):
            if item.sha256 not in (*self._counted, *self._coming) and self._cached(item) is None:
                coming: Future[bytes] = Future()
                self._coming[item.sha256] = coming
                Thread(
                    target=self._read_ahead, args=(item, coming), daemon=True, name="p2u-ahead"
                ).start()

    def _read_ahead(self, wanted: Object, coming: Future[bytes]) -> None:
        try:
            coming.set_result(self.fetcher.read_object(wanted))
        except BaseException as error:  # noqa: BLE001 - raised again where it is wanted
            coming.set_exception(error)

    def _objects(self, update: Update) -> list[Object]:
        """The objects to read before an update's chunks."""
        ends = [state for state in (update.source, update.target) if state is not None]
        layouts = [self.manifest.release(state).layout for state in ends]
        return [*dict.fromkeys(layouts), update.index]

    def probe(self, update: Update) -> None:
        """Find out whether an update is there, without fetching it: its index, some of its blobs.

        Raises:
            P2UError: What is wrong with it.
        """
        self.index(update)
        count = len(update.blobs)
        some = {n * (count - 1) // (PROBED - 1) for n in range(PROBED)} if count else set()
        # The last byte is there only if the blob has its size; without ranges all would come.
        store = self.store
        ranges = not store.remote or (store.knows_ranges and store.supports_ranges)

        def look(number: int) -> None:
            blob = update.blobs[number]
            self.fetcher.probe(blob.key, blob.size - 1 if ranges else 0)

        with ThreadPoolExecutor(self.fetcher.jobs) as pool:
            for _ in pool.map(look, sorted(some)):
                pass

    def marks(self, route: Sequence[Update]) -> tuple[tuple[str, int], ...]:
        """``(title, bytes)``: how much of a route has to be here for each state."""
        known = {o.sha256 for update in route for o in self._objects(update)}
        at = self.meter.done - sum(s for sha, s in self._counted.items() if sha in known)
        if route and route[0].source is not None:
            at = self.manifest.release(route[0].source).layout.size
        found = []
        for update in route:
            at += self.manifest.cost(update)
            found.append((self.manifest.title(update.target), at))
        return tuple(found)

    def _check_limit(self, size: int, what: str) -> None:
        most = self.options.max_bytes
        if most is not None and size > most:
            raise LimitError(
                f"{what} {size} bytes, at most {most} are allowed",
                file=self.url,
                hint="If you trust the package, raise --max-bytes (max_bytes=)",
            )

    def _object(self, wanted: Object) -> bytes:
        self._check_limit(wanted.size, f"{wanted.key} has")
        coming = self._coming.pop(wanted.sha256, None)
        data = self._kept.get(wanted.sha256)
        if data is None and (data := self._in_cache(wanted)) is not None:
            self.meter.hit(len(data))
            self.meter.receive(len(data))
        if data is None:
            data = self._left_behind(wanted)
        if data is None:
            data = self.fetcher.read_object(wanted) if coming is None else coming.result()
            self._cache_object(wanted, data)
        if sum(map(len, self._kept.values())) + len(data) <= KEPT:
            self._kept[wanted.sha256] = data
        if wanted.sha256 not in self._counted:
            self._counted[wanted.sha256] = len(data)
            self.meter.add(len(data))
        return data

    def _cache_object(self, wanted: Object, data: bytes) -> None:
        if self.cached is not None:
            self.cached.keep(wanted.sha256, data)
        with self._cache_lock:
            if self.cache is None:
                return
            path = self.cache / wanted.sha256
            with disk_errors(path):
                path.parent.mkdir(exist_ok=True)
                replace_file(path, data)

    def stop_caching(self) -> None:
        """Write nothing more to the cache, from any thread: its folder may be removed now."""
        with self._cache_lock:
            self.cache = None

    def _cached(self, wanted: Object) -> bytes | None:
        """An object that need not be fetched."""
        found = self._in_cache(wanted)
        return self._left_behind(wanted) if found is None else found

    def _in_cache(self, wanted: Object) -> bytes | None:
        if self.cached is None:
            return None
        return self.cached.cache.objects.read(wanted.sha256, wanted.size)

    def _left_behind(self, wanted: Object) -> bytes | None:
        """An object that an earlier run of the same pull has kept."""
        cache = self.cache
        if cache is None:
            return None
        try:
            with open(cache / wanted.sha256, "rb") as file:
                data = file.read(wanted.size + 1)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == wanted.sha256 else None

    def close(self) -> None:
        """Close the store, and end the threads."""
        self.store.close()
        self.fetcher.close()

    def __enter__(self) -> PackageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
