"""Find the parent of a new version: a state of a package, or a given model."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.scratch import ScratchFolder
from p2u.errors import DiskError, UsageError
from p2u.package.keys import keys_to
from p2u.package.lookup import find_state
from p2u.package.manifest import (
    LAYOUT_KEY,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    state_digest,
)
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY, check_paths
from p2u.packing.chunking.cut import make_layout
from p2u.packing.chunking.source import find_model
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.file_hashes import file_hashes
from p2u.packing.package_folder.destination import Destination
from p2u.packing.package_folder.open_package import read_manifest
from p2u.packing.versions.materialise import materialise, read_layout

#: Label of the one state of a model that no package delivers.
GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Parent:
    """A state whose bytes are at hand.

    Attributes:
        state: The state.
        release: Its release.
        model: Its files.
        known: Whether the package lists it already; else it is to be listed as a foreign one.
    """

    state: State
    release: Release
    model: StoredModel
    known: bool


class Parents:
    """Finds parents for a package.

    Args:
        destination: The package; without releases if there is none yet.
        engine: Hashes files.
        jobs: Threads that decode.
        stack: Keeps temporary folders as long as they are needed.
    """

    def __init__(
        self, destination: Destination, engine: Engine, jobs: int, stack: ExitStack
    ) -> None:
        self._engine = engine
        self._package = destination.folder
        self._bring = destination.bring
        self._manifest = destination.manifest
        self._temporary = destination.parents
        self._decoded = 0
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
            UsageError: It has no such state.
            FormatError, IntegrityError, DiskError: It cannot be read.
        """
        path, state = wanted, ""
        if not os.path.lexists(path):
            if any(s.id == wanted for s in self._manifest.states):
                return self.decoded(self._manifest.state(wanted))
            path, _, state = wanted.rpartition("@")
            if not path or not os.path.lexists(path):
                raise DiskError(
                    "no such package or model",
                    file=wanted,
                    hint="Name a package, a model directory or a model file",
                )
        if not (Path(path) / MANIFEST_KEY).is_file():
            if state:
                raise UsageError(
                    f"is a model, which has no states, but {state!r} was asked for", file=path
                )
            return self.given(path)
        if self._package.exists() and self._package.samefile(path):
            return self.decoded(_named_state(self._manifest, state, path))
        return self._of_other(Path(path), state)

    def decoded(self, state: State) -> Parent:
        """A state of this package, decoded to a temporary folder in the package's.

        Raises:
            UsageError: It cannot be reached from nothing.
            IntegrityError, FormatError, DiskError: The package is damaged, or there is no space.
        """
        self._check_delivered(self._manifest, state, self._package)
        self._bring(keys_to(self._manifest, state))
        model = self._materialise(self._package, self._manifest, state)
        return Parent(state, self._manifest.release(state), model, known=True)

    def given(self, path: str) -> Parent:
        """A model at hand: a state of this package, if its files are, or a foreign one."""
        source = find_model(path)
        scanned = source.scanned
        check_paths([file.path for file in scanned.files])
        model = StoredModel(scanned, make_layout(scanned, lambda name: False), source)
        files = tuple(
            FileEntry(file.path, file.size, (digest,))
            for file, digest in zip(model.files, file_hashes(model, self._engine), strict=True)
        )
        digest = state_digest((f.path, f.size, f.digest(0)) for f in files)
        if known := self._known(digest, model):
            return known
        name = Path(os.path.realpath(path))
        version = self._free_name(name.stem if name.is_file() else name.name)
        state = State(version, GIVEN, digest, None, None, 0.0)
        return Parent(state, _foreign(version, files, state), model, known=False)

    def _known(self, digest: str, model: StoredModel) -> Parent | None:
        for state in self._manifest.states:
            if state.digest == digest:
                release = self._manifest.release(state)
                self._bring([release.layout.key])
                layout = read_layout(self._package, release)
                return Parent(state, release, model.with_layout(layout), known=True)
        return None

    def _of_other(self, path: Path, wanted: str) -> Parent:
        """A state of another package, which is a foreign one here unless it is the same."""
        manifest = parse_manifest(read_manifest(path))
        found = _named_state(manifest, wanted, str(path))
        model = self._materialise(path, manifest, found)
        if known := self._known(found.digest, model):
            return known
        release = manifest.release(found)
        number = release.number(found)
        files = tuple(FileEntry(f.path, f.size, (f.digest(number),)) for f in release.files)
        version = self._free_name(found.version)
        state = replace(found, version=version, bytes=None)
        return Parent(state, _foreign(version, files, state), model, known=False)

    def _check_delivered(self, manifest: Manifest, state: State, package: Path) -> None:
        if manifest.release(state).foreign or state.bytes is None:
            raise UsageError(
                f"{state.id} cannot be decoded with this package alone",
                file=str(package),
                hint="Give its files: a model directory or file",
            )

    def _materialise(self, package: Path, manifest: Manifest, state: State) -> StoredModel:
        self._check_delivered(manifest, state, package)
        # In the package's folder and under its lock: the next publisher removes what a killed one
        # leaves, and a folder for temporary files may be too small for a model.
        path = self._temporary / str(self._decoded)
        self._decoded += 1
        with disk_errors(self._temporary, "write", UNPUBLISHED):
            if not self._temporary.exists():
                self._stack.enter_context(ScratchFolder(self._temporary))
            self._stack.enter_context(ScratchFolder(path))
        return materialise(package, manifest, state, path, self._jobs)

    def _free_name(self, name: str) -> str:
        """A name for a foreign version that no other one has."""
        taken = {release.version.casefold() for release in self._manifest.releases}
        plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip("._+-")[:56] or "parent"
        number = 1
        while (found := plain if number == 1 else f"{plain}.{number}").casefold() in taken:
            number += 1
        return found


def _foreign(version: str, files: tuple[FileEntry, ...], state: State) -> Release:
    # The place of its layout is known when that is written.
    return Release(version, files, Object(LAYOUT_KEY, 0, "0" * 64), (state,), foreign=True)


def _named_state(manifest: Manifest, wanted: str, package: str) -> State:
    """A state by a name, or the newest exact one if there is none."""
    return find_state(manifest, wanted, package) if wanted else manifest.latest.states[-1]
