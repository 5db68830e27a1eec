"""The keys of a package's objects, and a manifest that names some of them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from p2u.errors import UsageError
from p2u.package.graph import find_path
from p2u.package.manifest import MAX_MANIFEST, MAX_STATES, Blob, Manifest, Object, State
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY
from p2u.package.strict_json import MAX_NODES, count_nodes


def keys(manifest: Manifest) -> set[str]:
    """All files of a package."""
    return {MANIFEST_KEY, *sizes(manifest)}


def sizes(manifest: Manifest) -> dict[str, int]:
    """The size of each object but the manifest, by key."""
    found = {release.layout.key: release.layout.size for release in manifest.releases}
    for update in manifest.updates:
        found[update.index.key] = update.index.size
        found |= {blob.key: blob.size for blob in update.blobs}
    return found


def keys_to(manifest: Manifest, state: State) -> list[str]:
    """The objects that lead from nothing to a state.

    Raises:
        UsageError: No updates lead there.
    """
    found: list[str] = []
    for update in find_path(manifest.updates, None, state.id):
        found.append(manifest.release(update.target).layout.key)
        found += [update.index.key, *(blob.key for blob in update.blobs)]
    return list(dict.fromkeys(found))


def with_keys(manifest: Manifest, names: Mapping[str, str]) -> Manifest:
    """The same package with other keys.

    Args:
        manifest: The package.
        names: Old keys to new ones; those that it lacks stay.
    """

    def moved(found: Object) -> Object:
        return replace(found, key=names.get(found.key, found.key))

    releases = tuple(
        replace(release, layout=moved(release.layout)) for release in manifest.releases
    )
    updates = tuple(
        replace(
            update,
            index=moved(update.index),
            blobs=tuple(Blob(names.get(b.key, b.key), b.size) for b in update.blobs),
        )
        for update in manifest.updates
    )
    return replace(manifest, releases=releases, updates=updates)


def checked_bytes(manifest: Manifest, file: str) -> bytes:
    """The JSON text of a manifest that is to be published.

    Raises:
        UsageError: The package has too many files or versions for a reader.
    """
    data = manifest.to_bytes()
    full = len(manifest.states) > MAX_STATES or len(data) > MAX_MANIFEST
    full = full or count_nodes(data) > MAX_NODES
    if full or parse_manifest(data) != manifest:
        raise UsageError(
            f"the package would have {len(manifest.states)} states and a manifest of "
            f"{len(data)} bytes; {MAX_STATES} and {MAX_MANIFEST} are the limits",
            file=file,
            hint="Remove old versions with `p2u gc`",
        )
    return data
