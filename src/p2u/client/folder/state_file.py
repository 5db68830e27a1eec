"""The state file ``.p2u-state.json`` in a target, which names its state.

It says which state of which package the directory holds, and each file's digest. Sizes, times and
inodes are hints: where they still fit, a file is taken for unchanged without reading it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p2u.disk import durable, files
from p2u.errors import FormatError
from p2u.package.manifest import Manifest, State
from p2u.package.paths import check_paths
from p2u.package.strict_json import parse_object

NAME = ".p2u-state.json"
#: Its name until it is complete.
PART = f"{NAME}.part"
_FORMAT = "p2u-state"
_VERSION = 1
_LIMIT = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """One file: its path, size in bytes, digest, and the hints: time of change in ns, inode."""

    path: str
    size: int
    sha256: str
    mtime: int = -1
    inode: int = -1

    def fits(self, folder: Path) -> bool:
        """Whether the file looks as it did when this entry was made."""
        try:
            found = (folder / self.path).stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns, found.st_ino) == (
            self.size,
            self.mtime,
            self.inode,
        )


@dataclass(frozen=True, slots=True)
class StateFile:
    """The contents of a state file.

    Attributes:
        name: The package's name.
        source: Where it came from.
        state: Id of the state.
        digest: Of the state.
        files: The state's files.
        refining: Digest of the state that the files are being refined to in place; None if they
            are of ``state``.
    """

    name: str
    source: str
    state: str
    digest: str
    files: tuple[RecordedFile, ...]
    refining: str | None = None

    def write(self, folder: Path) -> None:
        """Write it into a folder and bring it to the disk, in one step."""
        durable.replace_file(folder / NAME, self._to_bytes(), folder / PART)

    def write_new(self, folder: Path) -> None:
        """Write it into a folder that is in the making; its name may still be lost."""
        files.remove_tree(folder / NAME)
        durable.write_file(folder / NAME, self._to_bytes(), new=True)

    def _to_bytes(self) -> bytes:
        tree = {
            "format": _FORMAT,
            "version": _VERSION,
            "name": self.name,
            "source": self.source,
            "state": self.state,
            "digest": self.digest,
            "refining": self.refining,
            "files": [[f.path, f.size, f.sha256, f.mtime, f.inode] for f in self.files],
        }
        return json.dumps(tree, ensure_ascii=False, indent=1).encode() + b"\n"

    def without_hints(self) -> StateFile:
        """The same without them, so that the next run reads the files."""
        return replace(self, files=tuple(replace(f, mtime=-1, inode=-1) for f in self.files))

    def with_hints(self, folder: Path) -> StateFile:
        """The same with the times and inodes that the files have now."""
        entries = []
        for entry in self.files:
            found = (folder / entry.path).stat()
            entries.append(replace(entry, mtime=found.st_mtime_ns, inode=found.st_ino))
        return replace(self, files=tuple(entries))


def make(manifest: Manifest, state: State, source: str) -> StateFile:
    """The state file of a state, without hints."""
    release = manifest.release(state)
    number = release.number(state)
    entries = tuple(RecordedFile(f.path, f.size, f.digest(number)) for f in release.files)
    return StateFile(manifest.name, source, state.id, state.digest, entries)


def read(folder: Path) -> StateFile | None:
    """The state file of a folder; None if there is none.

    Raises:
        FormatError: There is one, but it is malformed.
        OSError: It cannot be read.
    """
    path = folder / NAME
    data = files.read_small(path, _LIMIT)
    if data is None:
        return None
    hint = "Remove it: the next pull recognises the model by its files"
    found = None
    if len(data) <= _LIMIT:
        found = _parse(parse_object(data, file=str(path), hint=hint))
    if found is None:
        raise FormatError("it is not the state file of a pulled model", file=str(path), hint=hint)
    check_paths([entry.path for entry in found.files])
    return found


def _parse(tree: Mapping[str, Any]) -> StateFile | None:
    texts = [tree.get(key) for key in ("name", "source", "state", "digest")]
    refining, listed = tree.get("refining"), tree.get("files")
    if (
        tree.get("format") != _FORMAT
        or tree.get("version") != _VERSION
        or not all(isinstance(text, str) for text in texts)
        or not isinstance(refining, str | None)
        or not isinstance(listed, list)
        or not all(_is_entry(entry) for entry in listed)
    ):
        return None
    name, source, state, digest = (str(text) for text in texts)
    entries = tuple(RecordedFile(*entry) for entry in listed)
    return StateFile(name, source, state, digest, entries, refining)


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 5
        and isinstance(entry[0], str)
        and isinstance(entry[2], str)
        and _SHA256.match(entry[2]) is not None
        and all(type(entry[i]) is int for i in (1, 3, 4))
    )
