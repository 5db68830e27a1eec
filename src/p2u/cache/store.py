"""A store in front of a remote one that takes from the cache what is there."""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from p2u.cache.cache import Cache, open_cache
from p2u.cache.claims import Claims
from p2u.errors import NotFoundError, StoreError
from p2u.package.paths import MANIFEST_KEY
from p2u.stores.base import PIECE, Store, check_range, closed_error
from p2u.stores.forwarding import Forwarding

_log = logging.getLogger("p2u.cache")

#: Seconds between two looks for an object that another process fetches.
LOOK = 0.02


@dataclass(frozen=True, slots=True)
class CachedRange:
    """Bytes of a key that have a digest of their own."""

    start: int
    stop: int
    sha256: str


class CachedStore(Forwarding):
    """Another store, of which nothing is read that the cache has. Thread-safe.

    The store knows no digests, so whoever reads the bytes checks them: `keep` and `forget` are the
    reader's word on what it has found. Bytes that another process fetches at the moment are waited
    for.

    Args:
        store: Remote.
        cache: The cache.
        on_hit: Called with the number of bytes of each piece that the cache had.
    """

    def __init__(
        self, store: Store, cache: Cache, on_hit: Callable[[int], object] = lambda count: None
    ) -> None:
        super().__init__(store)
        self._on_hit = on_hit
        self.cache = cache
        #: By key: its ranges, sorted.
        self._ranges: dict[str, Sequence[CachedRange]] = {}
        self._claims = Claims(cache.folder / "claims")
        self._closed = threading.Event()

    # ------------------------------------------------ what the reader says

    def describe(self, key: str, ranges: Iterable[tuple[int, int, str]]) -> None:
        """Start, end and SHA-256 of a key's ranges; those of several calls must be the same."""
        if key not in self._ranges:
            self._ranges[key] = [CachedRange(*found) for found in sorted(ranges)]

    def keep(self, sha256: str, data: bytes | bytearray | memoryview) -> None:
        """Bytes have this digest."""
        self.cache.objects.put(sha256, data)
        self._claims.release(sha256)

    def forget(self, sha256: str) -> None:
        """What came instead of the bytes with this digest is something else."""
        self.cache.objects.remove(sha256)
        self._claims.release(sha256)

    # ------------------------------------------------ the store

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`; a manifest that cannot be read now is the one that was read last."""
        try:
            self._check_network(key)
            return self.store.read(key, limit=limit)
        except StoreError as error:
            if key == MANIFEST_KEY and (self.cache.offline or error.retryable):
                kept = self.cache.manifests.get(self.url)
                if kept is not None and len(kept.data) <= limit:
                    if not self.cache.offline:
                        _log.warning("%s; going on with the manifest that was read last", error)
                    return kept.data
            raise

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`."""
        self._check_network(key)
        return self.store.poll(key, limit=limit, mark=mark)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        check_range(start, length)
        if key not in self._ranges or length <= 0:
            self._check_network(key)
            return self.store.stream(key, start, length)
        return self._stream(key, start, start + length)

    def _stream(self, key: str, at: int, stop: int) -> Generator[bytes, None, None]:
        while at < stop:
            if self._closed.is_set():
                raise closed_error(self.url)
            found = self._range(key, at)
            if found is None:
                # Between the ranges; the next one may be here.
                end = min(stop, self._next_start(key, at))
                yield from self._fetch(key, at, end, ())
            elif (fd := self._wait_for(found)) is not None:
                end = min(stop, found.stop)
                for piece in _read(fd, at - found.start, end - at):
                    self._on_hit(len(piece))
                    yield piece
            else:
                claimed = [found, *self._claim_more(key, found.stop, stop)]
                end = min(stop, claimed[-1].stop)
                yield from self._fetch(key, at, end, claimed)
            at = end

    def _fetch(
        self, key: str, start: int, end: int, claimed: Sequence[CachedRange]
    ) -> Generator[bytes, None, None]:
        """Bytes from the store; the claims on what has not come whole are given up at the end."""
        at = start
        try:
            self._check_network(key)
            with closing(self.store.stream(key, start, end - start)) as pieces:
                for piece in pieces:
                    at += len(piece)
                    self._claims.renew(found.sha256 for found in claimed if found.stop > at - PIECE)
                    yield piece
        finally:
            for found in claimed:
                if found.stop > at:
                    self._claims.release(found.sha256)

    def _wait_for(self, found: CachedRange) -> int | None:
        """A descriptor of a range's file; None if this process has the claim to fetch it."""
        while True:
            fd = self.cache.objects.open(found.sha256)
            if fd is not None and os.fstat(fd).st_size == found.stop - found.start:
                return fd
            if fd is not None:
                os.close(fd)
                self.cache.objects.remove(found.sha256)
            if self.cache.offline or self._claims.take(found.sha256):
                # It may have come between the look and the claim.
                if self.cache.offline or not self.cache.objects.has(found.sha256):
                    return None
                self._claims.release(found.sha256)
            elif self._closed.wait(LOOK):
                raise closed_error(self.url)

    def _claim_more(self, key: str, start: int, stop: int) -> Generator[CachedRange, None, None]:
        """The ranges behind that this process is to fetch as well, without a gap."""
        while start < stop:
            found = self._range(key, start)
            if found is None or self.cache.objects.has(found.sha256):
                return
            if not self._claims.take(found.sha256):
                return
            yield found
            start = found.stop

    def _range(self, key: str, at: int) -> CachedRange | None:
        """The range that holds a byte."""
        ranges = self._ranges[key]
        number = bisect_right(ranges, at, key=lambda found: found.start) - 1
        return ranges[number] if number >= 0 and at < ranges[number].stop else None

    def _next_start(self, key: str, at: int) -> int:
        ranges = self._ranges[key]
        number = bisect_right(ranges, at, key=lambda found: found.start)
        return ranges[number].start if number < len(ranges) else 1 << 62

    def _check_network(self, key: str) -> None:
        if self.cache.offline:
            raise NotFoundError(
                "not in the cache, and P2U_OFFLINE or HF_HUB_OFFLINE forbids the network",
                file=f"{self.url}/{key}",
                hint="Fetch it once with P2U_OFFLINE=0",
            )

    def close(self) -> None:
        """Close the other store; processes that wait for this one go on by themselves."""
        self._closed.set()
        super().close()
        self._claims.release_all()


def cached_store(
    store: Store,
    cache: bool | str | os.PathLike[str] | Cache,
    on_hit: Callable[[int], object] = lambda count: None,
) -> CachedStore | None:
    """A store with the cache that a caller asks for, see `open_cache`; None if it is none."""
    opened = open_cache(cache)
    return None if opened is None else CachedStore(store, opened, on_hit)


def _read(fd: int, start: int, length: int) -> Generator[bytes, None, None]:
    with os.fdopen(fd, "rb", buffering=0) as file:
        file.seek(start)
        while length:
            piece = file.read(min(PIECE, length))
            if not piece:
                raise StoreError("a file of the cache was cut", retryable=True)
            length -= len(piece)
            yield piece
