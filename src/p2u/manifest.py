"""``p2u.json``: what a package holds. Parse, validate, write.

Manifests come from strangers: every field is checked here, so that nobody behind this module has
to. What a manifest says of its own bytes (digests) is checked by those who fetch them.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from p2u.errors import FormatError, UnsupportedError

KEY = "p2u.json"
FORMAT = "p2u"
VERSION = 1
LAYOUT_KEY = "layout.json.zst"

#: Limits in bytes; whatever is larger is refused before it is read into memory.
MAX_MANIFEST = 64 << 20
MAX_LAYOUT = 256 << 20
MAX_INDEX = 1 << 30
MAX_SIZE = 2**53 - 1
MAX_PATH = 4096
MAX_PART = 255
MAX_STATES = 1000
MAX_NAME = 1000

#: Beginning of names that the client uses for itself beside a model's files.
RESERVED = ".p2u"

HINT = "The package is damaged, incomplete or hostile: fetch or publish it again"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")


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
        sha256: Hex digest in each state, in the order of the manifest's states; one if all agree.
    """

    path: str
    size: int
    sha256: tuple[str, ...]

    def digest(self, state: int) -> str:
        """The hex digest in the state with this number."""
        return self.sha256[state] if len(self.sha256) > 1 else self.sha256[0]


@dataclass(frozen=True, slots=True)
class State:
    """The complete model at one precision of one version.

    Attributes:
        id: ``"v1@base"``.
        label: ``"base"``.
        version: ``"v1"``.
        digest: `state_digest` of its files.
        bytes: What there is to fetch to come here from nothing: payloads, indices, layout.
        snr_db: Signal-to-noise ratio of the progressive tensors; None if exact.
        bits: Bits per weight of the progressive tensors, fetched so far.
    """

    id: str
    label: str
    version: str
    digest: str
    bytes: int
    snr_db: float | None
    bits: float


@dataclass(frozen=True, slots=True)
class Update:
    """What leads from ``source`` (None: from nothing) to ``target``, both ids of states.

    Attributes:
        index: Says what each chunk is, see ``p2u.index``.
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
class Manifest:
    """A package; see ``p2u.layout`` for its tensors and ``p2u.index`` for its chunks."""

    name: str
    files: tuple[FileEntry, ...]
    layout: Object
    states: tuple[State, ...]
    updates: tuple[Update, ...]
    generator: str = "p2u-models"

    def to_bytes(self) -> bytes:
        """The JSON text; equal manifests give equal bytes."""
        tree = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "generator": self.generator,
            "files": [
                {"path": f.path, "size": f.size, "sha256": list(f.sha256)} for f in self.files
            ],
            "layout": _object_tree(self.layout),
            "states": [
                {
                    "id": s.id,
                    "label": s.label,
                    "version": s.version,
                    "digest": s.digest,
                    "bytes": s.bytes,
                    "snr_db": s.snr_db,
                    "bits": s.bits,
                }
                for s in self.states
            ],
            "updates": [
                {
                    "source": u.source,
                    "target": u.target,
                    "index": _object_tree(u.index),
                    "blobs": [{"key": b.key, "size": b.size} for b in u.blobs],
                    "bytes": u.bytes,
                    "chunks": u.chunks,
                }
                for u in self.updates
            ],
        }
        text = json.dumps(tree, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
        return text.encode() + b"\n"


def _object_tree(found: Object) -> dict[str, Any]:
    return {"key": found.key, "size": found.size, "sha256": found.sha256}


def state_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Digest of a state.

    Args:
        files: ``(path, size in bytes, SHA-256 in hex)`` of all files, in any order.

    Returns:
        SHA-256 in hex of the lines ``<sha256> <size> <path>``, sorted by path.
    """
    text = "".join(f"{sha} {size} {path}\n" for path, size, sha in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def check_path(path: str, what: str = "path") -> None:
    """Raise FormatError unless a path or key is relative, portable and stays below its root."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        size = MAX_PATH + 1
    parts = path.split("/")
    bad = (
        size > MAX_PATH
        or any(part in ("", ".", "..") or len(part.encode()) > MAX_PART for part in parts)
        or "\\" in path
        or _CONTROL.search(path)
        or _DRIVE.match(path)
    )
    if bad:
        raise FormatError(
            f"not a valid {what}: expected a relative name with '/' between its parts, without "
            "'.' and '..', backslashes, control characters and drive letters",
            file=ascii(path[:200]),
            hint="Rename the file; if it is a package of somebody else's, do not use it",
        )
    if any(part.lower().startswith(RESERVED) for part in parts):
        raise FormatError(
            f"not a valid {what}: names that begin with {RESERVED} are reserved",
            file=ascii(path[:200]),
            hint="Rename the file",
        )


def check_paths(paths: Sequence[str], what: str = "path") -> None:
    """Check each path, and that any file system can hold them side by side.

    Raises:
        FormatError: One is not valid, two are equal but for case or Unicode form, or one is a
            file in one place and a folder in another.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path, what)
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            raise FormatError(
                f"the {what}s {seen[key]!r} and {path!r} are the same on some systems",
                file=path,
                hint="Rename one of them",
            )
        seen[key] = path
        at = key.rfind("/")
        while at > 0 and key[:at] not in folders:
            folders[key[:at]] = path
            at = key.rfind("/", 0, at)
    if both := seen.keys() & folders.keys():
        path = seen[min(both)]
        raise FormatError(
            f"the {what} is a file, and a folder in {folders[min(both)]!r}", file=path, hint=HINT
        )


def parse_manifest(data: bytes) -> Manifest:
    """Parse and validate ``p2u.json``.

    Raises:
        FormatError: It is malformed or contradicts itself.
        UnsupportedError: A package of another format version.
    """
    if len(data) > MAX_MANIFEST:
        raise _wrong(f"it has {len(data)} bytes, at most {MAX_MANIFEST} are allowed")
    tree = _Node(load_json(data, KEY), "")
    if tree.value.get("format") != FORMAT:
        raise FormatError("not a P2U manifest", file=KEY, hint="Check the path or URL")
    version = tree.value.get("version")
    if version != VERSION or type(version) is not int:
        raise UnsupportedError(
            f"format version {str(version)[:40]}, but this program reads version {VERSION}",
            file=KEY,
            hint="Install a newer p2u-models",
        )
    generator = tree.value.get("generator", "")
    manifest = Manifest(
        name=tree.text("name", MAX_NAME),
        files=tuple(_file(node) for node in tree.items("files")),
        layout=_object(tree.node("layout"), MAX_LAYOUT),
        states=tuple(_state(node) for node in tree.items("states")),
        updates=tuple(_update(node) for node in tree.items("updates")),
        generator=generator if is_text(generator) and len(generator) <= MAX_NAME else "",
    )
    _check(manifest)
    return manifest


def _wrong(message: str) -> FormatError:
    return FormatError(message, file=KEY, hint=HINT)


def is_text(value: Any) -> bool:
    """Whether it is a str that UTF-8 can hold: JSON's escapes can spell lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _InvalidJsonError(ValueError):
    """Found by the hooks below; never leaves `load_json`."""


def _no_constant(text: str) -> NoReturn:
    raise _InvalidJsonError(f"{text} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _InvalidJsonError("a key appears twice")
    return found


def load_json(data: bytes, file: str) -> dict[str, Any]:
    """Parse a JSON object of unknown origin.

    Raises:
        FormatError: Not UTF-8, not JSON, a key appears twice, nested too deeply, or no object.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except RecursionError:
        raise FormatError("it is nested too deeply", file=file, hint=HINT) from None
    except ValueError as error:  # Unicode, JSON, the hooks, integers of too many digits
        raise FormatError(f"it is not valid JSON: {error}", file=file, hint=HINT) from None
    if not isinstance(value, dict):
        raise FormatError("it is not a JSON object", file=file, hint=HINT)
    return value


@dataclass(frozen=True, slots=True)
class _Node:
    """A JSON object and the way to it, for messages (``states[1].``)."""

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

    def node(self, key: str) -> _Node:
        value = self.value.get(key)
        if not isinstance(value, dict):
            raise self.bad(key, "an object")
        return _Node(value, f"{self.at}{key}.")

    def items(self, key: str) -> list[_Node]:
        values = self.value.get(key)
        if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
            raise self.bad(key, "a list of objects")
        return [_Node(v, f"{self.at}{key}[{i}].") for i, v in enumerate(values)]


def _object(node: _Node, most: int) -> Object:
    return Object(node.text("key"), node.size("size", most=most), node.sha256("sha256"))


def _file(node: _Node) -> FileEntry:
    digests = node.value.get("sha256")
    if (
        not isinstance(digests, list)
        or not digests
        or not all(isinstance(d, str) and _SHA256.match(d) for d in digests)
    ):
        raise node.bad("sha256", "a list of digests of 64 lower-case hex digits")
    return FileEntry(node.text("path"), node.size("size"), tuple(digests))


def _state(node: _Node) -> State:
    label, version = node.text("label"), node.text("version")
    for key, value in (("label", label), ("version", version)):
        if not _LABEL.match(value):
            raise node.bad(key, "letters, digits and ._+-")
    if node.value.get("id") != f"{version}@{label}":
        raise node.bad("id", f"'{version}@{label}'")
    snr = None if node.value.get("snr_db") is None else node.number("snr_db")
    if "snr_db" not in node.value:
        raise node.bad("snr_db", "a number or null")
    return State(
        f"{version}@{label}",
        label,
        version,
        node.sha256("digest"),
        node.size("bytes"),
        snr,
        node.number("bits"),
    )


def _update(node: _Node) -> Update:
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
    check_paths([f.path for f in manifest.files])
    keys = [KEY, manifest.layout.key]
    for update in manifest.updates:
        keys += [update.index.key, *(b.key for b in update.blobs)]
    check_paths(keys, "key")
    for file in manifest.files:
        if len(file.sha256) not in (1, len(states)):
            raise _wrong(
                f"{file.path}: expected 1 or {len(states)} digests, found {len(file.sha256)}"
            )
    for number, state in enumerate(states):
        if state.digest != state_digest((f.path, f.size, f.digest(number)) for f in manifest.files):
            raise _wrong(f"the digest of state {state.id} is not that of its files")
    _check_ways(manifest)


def _check_ways(manifest: Manifest) -> None:
    """Every state can be reached from nothing, at the stated cost."""
    number = {s.id: n for n, s in enumerate(manifest.states)}
    cost: dict[str | None, int] = {None: manifest.layout.size}
    seen = set()
    order = sorted(manifest.updates, key=lambda u: number.get(u.target, -1))
    for update in order:
        way = f"{update.source} -> {update.target}"
        if update.target not in number:
            raise _wrong(f"the update {way} leads to a state that does not exist")
        if update.source is not None and update.source not in number:
            raise _wrong(f"the update {way} begins at a state that does not exist")
        if update.source is not None and number[update.source] >= number[update.target]:
            raise _wrong(f"the update {way} leads to an earlier state")
        if (update.source, update.target) in seen:
            raise _wrong(f"there are two updates {way}")
        seen.add((update.source, update.target))
        if update.source in cost:
            bytes_ = cost[update.source] + update.index.size + update.bytes
            cost[update.target] = min(bytes_, cost.get(update.target, bytes_))
    for state in manifest.states:
        if state.id not in cost:
            raise _wrong(f"no update leads to state {state.id}")
        if cost[state.id] != state.bytes:
            raise _wrong(
                f"state {state.id} states {state.bytes} bytes, but its updates have "
                f"{cost[state.id]}"
            )
