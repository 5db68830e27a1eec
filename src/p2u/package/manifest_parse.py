"""Parse and validate the manifest, ``p2u.json``.

Manifests come from strangers: every field is checked here, so that nobody behind this module has
to. Those who fetch a package's bytes check them against the digests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from p2u.errors import FormatError, UnsupportedError
from p2u.package.manifest import (
    FORMAT,
    HINT,
    MAX_INDEX,
    MAX_LAYOUT,
    MAX_LINES,
    MAX_MANIFEST,
    MAX_NAME,
    MAX_SIZE,
    MAX_STATES,
    VERSION,
    Blob,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    costs,
    state_digest,
)
from p2u.package.paths import MANIFEST_KEY, MAX_PATH, check_paths
from p2u.package.strict_json import is_text, parse_object

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")


def parse_manifest(data: bytes) -> Manifest:
    """Parse and validate ``p2u.json``.

    Raises:
        FormatError: It is malformed or contradicts itself.
        UnsupportedError: A package of another format version.
    """
    if len(data) > MAX_MANIFEST:
        raise _wrong(f"it has {len(data)} bytes, at most {MAX_MANIFEST} are allowed")
    tree = _JsonNode(parse_object(data, file=MANIFEST_KEY, hint=HINT), "")
    if tree.value.get("format") != FORMAT:
        raise FormatError("not a P2U manifest", file=MANIFEST_KEY, hint="Check the path or URL")
    version = tree.value.get("version")
    if type(version) is not int or version != VERSION:
        raise UnsupportedError(
            f"format version {str(version)[:40]}, but this program reads version {VERSION}",
            file=MANIFEST_KEY,
            hint="Install a newer p2u-models",
        )
    generator = tree.value.get("generator", "")
    manifest = Manifest(
        name=tree.text("name", MAX_NAME),
        releases=tuple(_release(node) for node in tree.items("releases")),
        updates=tuple(_update(node) for node in tree.items("updates")),
        generator=generator if is_text(generator) and len(generator) <= MAX_NAME else "",
    )
    _check(manifest)
    return manifest


def _wrong(message: str) -> FormatError:
    return FormatError(message, file=MANIFEST_KEY, hint=HINT)


@dataclass(frozen=True, slots=True)
class _JsonNode:
    """A JSON object and its place, for messages (``states[1].``)."""

    value: dict[str, Any]
    at: str

    def bad(self, key: str, expected: str) -> FormatError:
        found = repr(self.value.get(key))[:80] if key in self.value else "nothing"
        return _wrong(f"{self.at}{key}: expected {expected}, found {found}")

    def text(self, key: str, most: int = MAX_PATH) -> str:
        value = self.value.get(key)
        if not isinstance(value, str) or not is_text(value) or len(value) > most:
            raise self.bad(key, f"a string of at most {most} characters")
        return value

    def size(self, key: str, least: int = 0, most: int = MAX_SIZE) -> int:
        value = self.value.get(key)
        if type(value) is not int or not least <= value <= most:
            raise self.bad(key, f"an integer from {least} to {most}")
        return value

    def sha256(self, key: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str) or not _SHA256.match(value):
            raise self.bad(key, "64 lower-case hex digits")
        return value

    def number(self, key: str) -> float:
        value = self.value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
            raise self.bad(key, "a number")
        return float(value)

    def node(self, key: str) -> _JsonNode:
        value = self.value.get(key)
        if not isinstance(value, dict):
            raise self.bad(key, "an object")
        return _JsonNode(value, f"{self.at}{key}.")

    def items(self, key: str) -> list[_JsonNode]:
        values = self.value.get(key)
        if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
            raise self.bad(key, "a list of objects")
        return [_JsonNode(v, f"{self.at}{key}[{i}].") for i, v in enumerate(values)]


def _object(node: _JsonNode, most: int) -> Object:
    return Object(node.text("key"), node.size("size", most=most), node.sha256("sha256"))


def _file(node: _JsonNode) -> FileEntry:
    digests = node.value.get("sha256")
    if (
        not isinstance(digests, list)
        or not digests
        or not all(isinstance(d, str) and _SHA256.match(d) for d in digests)
    ):
        raise node.bad("sha256", "a list of digests of 64 lower-case hex digits")
    return FileEntry(node.text("path"), node.size("size"), tuple(digests))


def _label(node: _JsonNode, key: str) -> str:
    value = node.text(key)
    if not _LABEL.match(value):
        raise node.bad(key, "letters, digits and ._+-")
    return value


def _release(node: _JsonNode) -> Release:
    version = _label(node, "version")
    foreign = node.value.get("foreign", False)
    if not isinstance(foreign, bool):
        raise node.bad("foreign", "true or false")
    return Release(
        version=version,
        files=tuple(_file(file) for file in node.items("files")),
        layout=_object(node.node("layout"), MAX_LAYOUT),
        states=tuple(_state(state, version) for state in node.items("states")),
        foreign=foreign,
    )


def _state(node: _JsonNode, version: str) -> State:
    for key in ("snr_db", "bytes"):
        if key not in node.value:
            raise node.bad(key, "a number or null")
    return State(
        version,
        _label(node, "label"),
        node.sha256("digest"),
        None if node.value["bytes"] is None else node.size("bytes"),
        None if node.value["snr_db"] is None else node.number("snr_db"),
        node.number("bits"),
    )


def _update(node: _JsonNode) -> Update:
    blobs = tuple(Blob(b.text("key"), b.size("size", 1)) for b in node.items("blobs"))
    size = node.size("bytes")
    if sum(b.size for b in blobs) != size:
        raise node.bad("bytes", f"{sum(b.size for b in blobs)}, the sum of the blobs' sizes")
    return Update(
        None if node.value.get("source") is None else node.text("source"),
        node.text("target"),
        _object(node.node("index"), MAX_INDEX),
        blobs,
        size,
        node.size("chunks"),
    )


def _check(manifest: Manifest) -> None:
    """Raise FormatError where parts of the manifest contradict each other."""
    states = manifest.states
    if not 1 <= len(states) <= MAX_STATES:
        raise _wrong(f"expected 1 to {MAX_STATES} states, found {len(states)}")
    if len({s.id for s in states}) != len(states):
        raise _wrong("two states have the same id")
    if len({release.version for release in manifest.releases}) != len(manifest.releases):
        raise _wrong("two releases have the same version")
    if all(release.foreign for release in manifest.releases):
        raise _wrong("it delivers nothing: all its releases are foreign")
    lines = sum(len(release.files) * len(release.states) for release in manifest.releases)
    if lines > MAX_LINES:
        raise _wrong(f"its files times its states are {lines}, at most {MAX_LINES} are allowed")
    for release in manifest.releases:
        _check_release(release)
    # Releases may share a layout, if they say the same of it.
    keys = [
        MANIFEST_KEY,
        *{release.layout: release.layout.key for release in manifest.releases}.values(),
    ]
    for update in manifest.updates:
        keys += [update.index.key, *(b.key for b in update.blobs)]
    check_paths(keys, "key")
    _check_routes(manifest)


def _check_release(release: Release) -> None:
    if not release.states:
        raise _wrong(f"release {release.version} has no states")
    check_paths([f.path for f in release.files])
    count = len(release.states)
    for file in release.files:
        if len(file.sha256) not in (1, count):
            raise _wrong(f"{file.path}: expected 1 or {count} digests, found {len(file.sha256)}")
    for number, state in enumerate(release.states):
        if state.digest != state_digest((f.path, f.size, f.digest(number)) for f in release.files):
            raise _wrong(f"the digest of state {state.id} is not that of its files")


def _check_routes(manifest: Manifest) -> None:
    """Every state can be reached from nothing, at the stated cost, or from a foreign one."""
    number = {s.id: n for n, s in enumerate(manifest.states)}
    foreign = {s.id for release in manifest.releases if release.foreign for s in release.states}
    seen = set()
    for update in manifest.updates:
        ends = f"{update.source} -> {update.target}"
        if update.target not in number:
            raise _wrong(f"the update {ends} leads to a state that does not exist")
        if update.target in foreign:
            raise _wrong(f"the update {ends} leads to a foreign state")
        if update.source is not None and update.source not in number:
            raise _wrong(f"the update {ends} begins at a state that does not exist")
        if update.source is not None and number[update.source] >= number[update.target]:
            raise _wrong(f"the update {ends} leads to an earlier state")
        if (update.source, update.target) in seen:
            raise _wrong(f"there are two updates {ends}")
        seen.add((update.source, update.target))
    cost = costs(manifest)
    near = set(foreign)  # states that foreign ones lead to
    for update in sorted(manifest.updates, key=lambda u: number[u.target]):
        if update.source in near:
            near.add(update.target)
    for state in manifest.states:
        if state.id not in cost and state.id not in near:
            raise _wrong(f"no update leads to state {state.id}")
        if cost.get(state.id) != state.bytes:
            raise _wrong(
                f"state {state.id} states {state.bytes} bytes, but its updates have "
                f"{cost.get(state.id)}"
            )
