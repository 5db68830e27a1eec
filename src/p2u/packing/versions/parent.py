"""Find the parent of a new version: a state of a package, or a given model."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from p2u.disk.errors import disk_errors
from p2u.errors import UsageError
from p2u.formats import ScannedModel as Files
from p2u.formats import scan_model
from p2u.package.layout import Layout
from p2u.package.manifest import (
    KEY,
    LAYOUT_KEY,
    MAX_MANIFEST,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    state_digest,
)
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import check_paths
from p2u.packing.chunking.cut import make_layout
from p2u.packing.chunking.source import Source
from p2u.packing.versions.decode import Decoder, hash_files, read_layout
from p2u.packing.versions.pairing import Side
from p2u.packing.versions.version_update import End
from p2u.types import ModelFile

#: Label of the one state of a model that no package delivers.
GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Parent:
    """A state, with its bytes at hand.

    Attributes:
        end: Its release and its bytes.
        state: Its state.
        known: Whether the package knows it already; else it is to be named as a foreign one.
    """

    end: End
    state: State
    known: bool


class Parents:
    """Finds parents for a package.

    Args:
        package: The package's folder.
        manifest: Its manifest; without releases if there is no package yet.
        jobs: Threads.
        stack: Keeps temporary folders as long as they are needed.
    """

    def __init__(self, package: Path, manifest: Manifest, jobs: int, stack: ExitStack) -> None:
        self._package = package
        self._manifest = manifest
        self._jobs = jobs
        self._stack = stack

    def newest(self) -> State:
        """The exact state of the last version.

        Raises:
            UsageError: There is none.
        """
        if not any(not release.foreign for release in self._manifest.releases):
            raise UsageError("the package has no version yet", file=str(self._package))
        return self._manifest.latest.states[-1]

    def find(self, wanted: str) -> Parent:
        """The parent that a user names.

        Args:
            wanted: A package or a model, with ``@`` and a state's name behind it, or the id of a
                state of this package.

        Raises:
            UsageError: There is no such thing.
            FormatError, IntegrityError, DiskError: It cannot be read.
        """
        path, state = wanted, ""
        if not os.path.lexists(path):
            if any(s.id == wanted for s in self._manifest.states):
                return self.decoded(self._manifest.state(wanted))
            path, _, state = wanted.rpartition("@")
            if not path or not os.path.lexists(path):
                raise UsageError(
                    "no such package or model",
                    file=wanted,
                    hint="Name a package, a model directory or a model file",
                )
        if not (Path(path) / KEY).is_file():
            if state:
                raise UsageError(
                    f"is a model, which has no states, but {state!r} was asked for", file=path
                )
            return self.given(path)
        if self._package.exists() and self._package.samefile(path):
            return self.decoded(_find_state(self._manifest, state, path))
        return self._of_other(Path(path), state)

    def decoded(self, state: State) -> Parent:
        """A state of this package, decoded to a temporary folder.

        Raises:
            UsageError: It cannot be reached from nothing.
            IntegrityError, FormatError, DiskError: The package is damaged, or there is no space.
        """
        return Parent(self._decode(self._package, self._manifest, state), state, known=True)

    def given(self, path: str) -> Parent:
        """A model at hand: a state of this package, if its files are, or a foreign one."""
        model = scan_model(path)
        check_paths([file.path for file in model.files])
        source = Source(model)
        files = _entries(source, self._jobs)
        digest = state_digest((f.path, f.size, f.digest(0)) for f in files)
        if known := self._known(digest, source):
            return known
        layout = make_layout(model, lambda name: False)
        name = Path(os.path.realpath(path))
        version = self._free_name(name.stem if name.is_file() else name.name)
        state = State(f"{version}@{GIVEN}", GIVEN, version, digest, None, None, 0.0)
        return Parent(_foreign(version, files, layout, state, source), state, known=False)

    def _known(self, digest: str, source: Source) -> Parent | None:
        for state in self._manifest.states:
            if state.digest == digest:
                release = self._manifest.release(state)
                layout = read_layout(self._package, release)
                return Parent(End(release, Side(source, layout)), state, known=True)
        return None

    def _of_other(self, path: Path, wanted: str) -> Parent:
        """A state of another package, which is a foreign one here unless it is the same."""
        with disk_errors(path, "read"), open(path / KEY, "rb") as stream:
            manifest = parse_manifest(stream.read(MAX_MANIFEST + 1))
        found = _find_state(manifest, wanted, str(path))
        end = self._decode(path, manifest, found)
        if known := self._known(found.digest, end.side.source):
            return known
        number = end.release.number(found)
        files = tuple(FileEntry(f.path, f.size, (f.digest(number),)) for f in end.release.files)
        version = self._free_name(found.version)
        state = State(
            f"{version}@{found.label}",
            found.label,
            version,
            found.digest,
            None,
            found.snr_db,
            found.bits,
        )
        foreign = _foreign(version, files, end.side.layout, state, end.side.source)
        return Parent(foreign, state, known=False)

    def _decode(self, package: Path, manifest: Manifest, state: State) -> End:
        release = manifest.release(state)
        if release.foreign or state.bytes is None:
            raise UsageError(
                f"{state.id} cannot be decoded with this package alone",
                file=str(package),
                hint="Give its files: a model directory or file",
            )
        temporary = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="p2u-parent-"))
        folder = Decoder(package, manifest, self._jobs).materialise(state, Path(temporary))
        files = tuple(ModelFile(f.path, f.size) for f in release.files)
        source = Source(Files(str(folder), files))
        return End(release, Side(source, read_layout(package, release)))

    def _free_name(self, name: str) -> str:
        """A name for a foreign version that no other one has."""
        taken = {release.version.casefold() for release in self._manifest.releases}
        plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip("._+-")[:56] or "parent"
        number = 1
        while (found := plain if number == 1 else f"{plain}.{number}").casefold() in taken:
            number += 1
        return found


def _entries(source: Source, jobs: int) -> tuple[FileEntry, ...]:
    digests = hash_files(source, jobs)
    return tuple(
        FileEntry(file.path, file.size, (digest,))
        for file, digest in zip(source.files, digests, strict=True)
    )


def _foreign(
    version: str, files: tuple[FileEntry, ...], layout: Layout, state: State, source: Source
) -> End:
    # Where its layout lies is known when it is written.
    release = Release(version, files, Object(LAYOUT_KEY, 0, "0" * 64), (state,), foreign=True)
    return End(release, Side(source, layout))


def _find_state(manifest: Manifest, wanted: str, package: str) -> State:
    """A state by id, by label in the last version, or by version."""
    if not wanted:
        return manifest.latest.states[-1]
    for state in (*reversed(manifest.latest.states), *reversed(manifest.states)):
        if wanted in (state.id, state.version) or (
            wanted == state.label and state in manifest.latest.states
        ):
            return state
    names = ", ".join(state.id for state in manifest.states[-6:])
    raise UsageError(f"has no state {wanted!r}", file=package, hint=f"It has {names}")
