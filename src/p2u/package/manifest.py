"""The manifest, ``p2u.json``, as data: releases, states, updates, and their costs.

``p2u.package.manifest_parse`` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

FORMAT = "p2u"
#: Version of the manifest.
VERSION = 1
LAYOUT_KEY = "layout.json.zst"

#: Limits in bytes; whatever is larger is refused before it is read into memory.
MAX_MANIFEST = 64 << 20
MAX_LAYOUT = 64 << 20
MAX_INDEX = 1 << 30
MAX_SIZE = 2**53 - 1
MAX_STATES = 1000
#: Of all releases together: files times states, each of which is a line of a state's digest.
MAX_LINES = 1 << 20
MAX_NAME = 1000

HINT = "The package is damaged, incomplete or hostile: fetch or publish it again"


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of payloads; ``size`` in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Object:
    """A file that is fetched and checked as a whole; ``size`` in bytes, ``sha256`` in hex."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the model.

    Attributes:
        path: Relative to the model directory.
        size: Bytes; the same in every state.
        sha256: Hex digest in each state, in the order of the release's states; one if all agree.
    """

    path: str
    size: int
    sha256: tuple[str, ...]

    def digest(self, state: int) -> str:
        """The hex digest in the state with this number in its release."""
        return self.sha256[state] if len(self.sha256) > 1 else self.sha256[0]


@dataclass(frozen=True, slots=True)
class State:
    """The complete model at one precision of one version.

    Attributes:
        version: ``"v1"``, that of its release.
        label: ``"base"``.
        digest: `state_digest` of its files.
        bytes: What there is to fetch to come here from nothing: payloads, indices, layouts; None if
            only what others published leads here, or nothing does.
        snr_db: Signal-to-noise ratio of the progressive tensors; None if exact.
        bits: Bits per weight of the progressive tensors, fetched so far.
    """

    version: str
    label: str
    digest: str
    bytes: int | None
    snr_db: float | None
    bits: float

    @property
    def id(self) -> str:
        """``"v1@base"``, unique within the package."""
        return f"{self.version}@{self.label}"


@dataclass(frozen=True, slots=True)
class Update:
    """An index and blobs that lead from ``source`` (None: nothing) to ``target``, ids of states.

    Attributes:
        index: Says what each chunk is, see ``p2u.package.index``.
        blobs: The chunks' payloads, back to back.
        bytes: Sum of the blobs' sizes.
        chunks: Number of chunks.
    """

    source: str | None
    target: str
    index: Object
    blobs: tuple[Blob, ...]
    bytes: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Release:
    """One version of the model: its files, and the precisions that there are of them.

    Attributes:
        version: ``"v1"``, unique.
        files: All its files.
        layout: Its tensors, see ``p2u.package.layout``.
        states: In order of their precision; not empty.
        foreign: It is known, but not delivered: somebody else's file that an update begins at.
    """

    version: str
    files: tuple[FileEntry, ...]
    layout: Object
    states: tuple[State, ...]
    foreign: bool = False

    def number(self, state: State | str) -> int:
        """Place of a state, or of that with this id, in ``states``."""
        wanted = state if isinstance(state, str) else state.id
        return [found.id for found in self.states].index(wanted)


@dataclass(frozen=True)
class Manifest:
    """A package; `layout` has its tensors, `index` its chunks.

    Attributes:
        name: Of the model.
        releases: In order of publishing.
        updates: What leads from state to state.
        generator: Who wrote it.
    """

    name: str
    releases: tuple[Release, ...]
    updates: tuple[Update, ...]
    generator: str = "p2u-models"

    def __repr__(self) -> str:
        versions = [r.version for r in self.releases]
        shown = ", ".join(versions if len(versions) < 4 else [versions[0], "...", versions[-1]])
        return f"<Manifest of {self.name!r}: {shown}; {len(self.updates)} updates>"

    @cached_property
    def states(self) -> tuple[State, ...]:
        """The states of all releases, in order."""
        return tuple(state for release in self.releases for state in release.states)

    @cached_property
    def _places(self) -> dict[str, tuple[Release, State]]:
        return {state.id: (release, state) for release in self.releases for state in release.states}

    @property
    def latest(self) -> Release:
        """The last release that is delivered."""
        return [release for release in self.releases if not release.foreign][-1]

    def state(self, wanted: str) -> State:
        """The state with this id. Raises KeyError."""
        return self._places[wanted][1]

    def release(self, state: State | str) -> Release:
        """The release of a state, or of that with this id. Raises KeyError."""
        return self._places[state if isinstance(state, str) else state.id][0]

    def title(self, state: State | str) -> str:
        """The name of a state for users: its label where that is clear, else its id."""
        found = self.state(state) if isinstance(state, str) else state
        return found.label if found in self.latest.states else found.id

    def crosses(self, update: Update) -> bool:
        """Whether an update leads from one release to another."""
        if update.source is None:
            return False
        return self.release(update.source) is not self.release(update.target)

    def cost(self, update: Update) -> int:
        """Bytes to fetch for an update once its source is at hand.

        Those are its blobs, its index, and the layout of its target's release unless the source's
        has the same.
        """
        size = update.index.size + update.bytes
        layout = self.release(update.target).layout
        if update.source is None or self.release(update.source).layout.sha256 != layout.sha256:
            size += layout.size
        return size

    def to_bytes(self) -> bytes:
        """The JSON text; equal manifests give equal bytes."""
        tree = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "generator": self.generator,
            "releases": [_release_tree(release) for release in self.releases],
            "updates": [_update_tree(update) for update in self.updates],
        }
        text = json.dumps(tree, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
        return text.encode() + b"\n"


def _release_tree(release: Release) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "version": release.version,
        "files": [
            {"path": f.path, "size": f.size, "sha256": list(f.sha256)} for f in release.files
        ],
        "layout": _object_tree(release.layout),
        "states": [
            {
                "label": s.label,
                "digest": s.digest,
                "bytes": s.bytes,
                "snr_db": s.snr_db,
                "bits": s.bits,
            }
            for s in release.states
        ],
    }
    return tree | {"foreign": True} if release.foreign else tree


def _update_tree(update: Update) -> dict[str, Any]:
    return {
        "source": update.source,
        "target": update.target,
        "index": _object_tree(update.index),
        "blobs": [{"key": b.key, "size": b.size} for b in update.blobs],
        "bytes": update.bytes,
        "chunks": update.chunks,
    }


def _object_tree(found: Object) -> dict[str, Any]:
    return {"key": found.key, "size": found.size, "sha256": found.sha256}


def costs(manifest: Manifest) -> dict[str, int]:
    """Id to ``State.bytes`` of each state that can be reached from nothing.

    Args:
        manifest: Each of its updates leads to a later state.
    """
    order = {state.id: number for number, state in enumerate(manifest.states)}
    found: dict[str | None, int] = {None: 0}
    for update in sorted(manifest.updates, key=lambda u: order[u.target]):
        if update.source in found:
            size = found[update.source] + manifest.cost(update)
            found[update.target] = min(size, found.get(update.target, size))
    return {state: size for state, size in found.items() if state is not None}


def with_costs(manifest: Manifest) -> Manifest:
    """The same manifest with the right ``bytes`` in all states."""
    found = costs(manifest)
    releases = tuple(
        replace(
            release,
            states=tuple(replace(state, bytes=found.get(state.id)) for state in release.states),
        )
        for release in manifest.releases
    )
    return replace(manifest, releases=releases)


def state_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Digest of a state.

    Args:
        files: ``(path, size in bytes, SHA-256 in hex)`` of all files, in any order.

    Returns:
        SHA-256 in hex of the lines ``<sha256> <size> <path>``, sorted by path.
    """
    text = "".join(f"{sha} {size} {path}\n" for path, size, sha in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


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
