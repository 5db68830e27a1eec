"""List the packages of which the cache has something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2u.cache.cache import Cache
from p2u.cache.manifests import CachedManifest
from p2u.errors import P2UError
from p2u.package.index import Index, parse_index
from p2u.package.layout import ReleaseLayout, parse_layout
from p2u.package.manifest import Manifest, Object, Update
from p2u.package.manifest_parse import parse_manifest


@dataclass(frozen=True, slots=True)
class CachedPackage:
    """A package of which the cache has something.

    Attributes:
        manifest: As it was read last, by this user.
        name: Of the package.
        size: Bytes of the package that are here.
        states: Titles of the states that need nothing from the network.
        digests: Of all objects that are here.
    """

    manifest: CachedManifest
    name: str
    size: int
    states: tuple[str, ...]
    digests: frozenset[str]


def cached_packages(cache: Cache) -> Iterator[CachedPackage]:
    """The packages whose manifests are here, those read last first."""
    for found in cache.manifests.all():
        try:
            yield _look(cache, found, parse_manifest(found.data))
        except P2UError:
            continue  # of a version that wrote something else


def _look(cache: Cache, found: CachedManifest, manifest: Manifest) -> CachedPackage:
    here: dict[str, int] = {}
    complete: set[str | None] = {None}
    states = []
    for update in manifest.updates:
        index = _index(cache, manifest, update)
        if index is None:
            continue
        here[update.index.sha256] = update.index.size
        layout = manifest.release(update.target).layout
        here[layout.sha256] = layout.size
        payloads = [(chunk.sha256.hex(), chunk.length) for chunk in index.chunks]
        there = [(digest, size) for digest, size in payloads if cache.objects.has(digest)]
        here |= dict(there)
        if len(there) == len(payloads) and update.source in complete:
            if update.target not in complete:
                states.append(manifest.title(update.target))
            complete.add(update.target)
    return CachedPackage(found, manifest.name, sum(here.values()), tuple(states), frozenset(here))


def _index(cache: Cache, manifest: Manifest, update: Update) -> Index | None:
    def read(wanted: Object) -> bytes | None:
        return cache.objects.read(wanted.sha256, wanted.size)

    ends = []
    for state in (update.target, update.source):
        release = None if state is None else manifest.release(state)
        layout = None if release is None else read(release.layout)
        if release is not None and layout is None:
            return None
        ends.append(release and layout and ReleaseLayout(release, parse_layout(layout, release)))
    data, (target, source) = read(update.index), ends
    if data is None or not target:
        return None
    crosses = manifest.crosses(update)
    return parse_index(data, update, target, source if source and crosses else None)
