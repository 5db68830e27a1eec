"""List the packages of which the cache has something."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from p2u.cache.cache import Cache
from p2u.cache.manifests import CachedManifest
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import NotFoundError, P2UError
from p2u.stores import Store


@dataclass(frozen=True, slots=True)
class CachedPackage:
    """A package of which the cache has something.

    Attributes:
        manifest: As it was read last, by this user.
        name: Of the package.
        size: Bytes of the package that are here.
        states: Titles of the states that need nothing from the network.
    """

    manifest: CachedManifest
    name: str
    size: int
    states: tuple[str, ...]


class _Unasked(Store):
    """A package on another machine, of which only the cache is read."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def remote(self) -> bool:
        """See `Store.remote`."""
        return True

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        raise NotFoundError("not in the cache", file=f"{self.url}/{key}")

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        raise NotFoundError("not in the cache", file=f"{self.url}/{key}")


def cached_packages(cache: Cache) -> Iterator[CachedPackage]:
    """The packages whose manifests are here, those read last first."""
    offline = Cache(cache.folder, cache.objects.limit)
    offline.offline = True
    for found in cache.manifests.all():
        try:
            with PackageReader(_Unasked(found.url), TransferOptions(cache=offline)) as package:
                yield _look(found, package, cache)
        except P2UError:
            continue  # of a version that wrote something else


def _look(found: CachedManifest, package: PackageReader, cache: Cache) -> CachedPackage:
    manifest = package.manifest
    here: dict[str, int] = {}
    complete: set[str | None] = {None}
    states = []
    for update in manifest.updates:
        try:
            chunks = package.index(update).chunks
        except NotFoundError:
            continue
        layout = manifest.release(update.target).layout
        here |= {update.index.sha256: update.index.size, layout.sha256: layout.size}
        payloads = [(chunk.sha256.hex(), chunk.length) for chunk in chunks]
        there = [(digest, size) for digest, size in payloads if cache.objects.has(digest)]
        here |= dict(there)
        if len(there) == len(payloads) and update.source in complete:
            if update.target not in complete:
                states.append(manifest.title(update.target))
            complete.add(update.target)
    return CachedPackage(found, manifest.name, sum(here.values()), tuple(states))
