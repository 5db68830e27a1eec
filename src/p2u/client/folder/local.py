"""Find out which state of the package a folder or file holds, if any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.state_file import StateFile
from p2u.disk.errors import disk_errors
from p2u.disk.files import hash_file, lexists
from p2u.errors import FormatError, NotFoundError, UsageError
from p2u.package.manifest import Manifest, Release, State
from p2u.package.paths import RESERVED

#: In a folder that counts as empty: our work folder, and the lost files of a volume's root.
_NOT_CONTENT = {RESERVED, "lost+found"}


@dataclass(frozen=True, slots=True)
class FoundState:
    """A state and where its bytes are.

    Attributes:
        state: One of the package's, perhaps a foreign one.
        paths: Of the files of its release, in their order.
        own: They are the target's own files, which the next state replaces.
    """

    state: State
    paths: tuple[Path, ...]
    own: bool


def same_states(parent: FoundState, manifest: Manifest) -> list[FoundState]:
    """A parent as each state of the package that has the very same files, itself included."""
    files = manifest.release(parent.state).files
    paths = {file.path: path for file, path in zip(files, parent.paths, strict=True)}
    return [
        FoundState(
            state, tuple(paths[file.path] for file in manifest.release(state).files), parent.own
        )
        for state in manifest.states
        if state.digest == parent.state.digest
    ]


def parent_in(folder: Path, manifest: Manifest, state: State) -> FoundState:
    """A state of the package that a target folder holds."""
    files = manifest.release(state).files
    return FoundState(state, tuple(folder / file.path for file in files), own=True)


@dataclass(frozen=True, slots=True)
class FolderContent:
    """The state, if any, of a folder or file.

    Attributes:
        parent: The state that all files are of; None if they are of none.
        recorded: The folder's state file, if it has one.
        refining: Digest of the state that an interrupted ``--in-place`` was on its way to.
        fresh: Whether the hints of the state file fit.
        damaged: The state of which some files are still there, and the numbers of those that are
            not, or were changed. None if it is not known, or nothing is left.
    """

    parent: FoundState | None = None
    recorded: StateFile | None = None
    refining: str | None = None
    fresh: bool = False
    damaged: tuple[State, tuple[int, ...]] | None = None

    @property
    def state(self) -> State | None:
        """The state of ``parent``."""
        return self.parent.state if self.parent is not None else None


class _Candidates:
    """Files below a folder, or a single one, by their digests.

    Args:
        root: The folder or file.
        check: Called now and then; may raise.
        own: It is the target: the package's files have their names there. Somebody else's have any
            name, but lie in no folder in it, so that nobody's whole disk is searched.
        known: Path to digest of files that need not be read.
    """

    def __init__(
        self,
        root: Path,
        check: Callable[[], None],
        *,
        own: bool,
        known: dict[Path, str] | None = None,
    ) -> None:
        self._root = root
        self._own = own
        self._check = check
        self._digests: dict[Path, str] = dict(known or {})

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = hash_file(path, self._check)
        return self._digests[path]

    @cached_property
    def _sizes(self) -> dict[int, list[Path]]:
        """All files that are looked at, by size."""
        found: dict[int, list[Path]] = {}
        below = self._root.iterdir() if self._own else self._root.rglob("*")
        for path in [self._root] if self._root.is_file() else sorted(below):
            if path.is_file() and path.name != state_file.NAME:
                found.setdefault(path.stat().st_size, []).append(path)
        return found

    def parents(self, manifest: Manifest) -> Iterator[FoundState]:
        """The states that are here, the latest first; at most one of each release."""
        for release in reversed(manifest.releases):
            found = self._find(release, anywhere=release.foreign or not self._own)
            if found is not None:
                yield FoundState(*found, self._own)

    def _find(self, release: Release, *, anywhere: bool) -> tuple[State, tuple[Path, ...]] | None:
        candidates = []
        for file in release.files:
            path = self._root / file.path
            here = [path] if path.is_file() and path.stat().st_size == file.size else []
            if anywhere:
                here += [p for p in self._sizes.get(file.size, ()) if p != path]
            if not here:
                return None
            candidates.append(here)
        for number, state in reversed(tuple(enumerate(release.states))):
            paths = []
            for file, here in zip(release.files, candidates, strict=True):
                wanted = file.digest(number)
                fits = next((p for p in here if self._digest(p) == wanted), None)
                if fits is None:
                    break
                paths.append(fits)
            else:
                return state, tuple(paths)
        return None


def find_parents(path: Path, manifest: Manifest, check: Callable[[], None]) -> list[FoundState]:
    """The states of the package that a folder or file holds; it is only read.

    Args:
        path: A folder, pulled or not, or a single file of any name.
        manifest: The package.
        check: Called now and then; may raise.

    Raises:
        NotFoundError: There is nothing.
        UsageError: It holds none.
        DiskError: It cannot be read.
    """
    if not path.exists():
        raise NotFoundError("no such file or folder", file=str(path), hint="Check the path")
    with disk_errors(path, "read"):
        known: dict[Path, str] = {}
        try:
            recorded = state_file.read(path)
        except FormatError:
            recorded = None
        if recorded is not None and recorded.refining is None:
            known = {path / e.path: e.sha256 for e in recorded.files if e.fits(path)}
        found = list(_Candidates(path, check, own=False, known=known).parents(manifest))
    if not found:
        names = ", ".join(state.id for state in manifest.states)
        raise UsageError(
            f"holds no state of the package ({names})",
            file=str(path),
            hint="Name the unchanged folder or file from which an update begins",
        )
    return found


def inspect(
    folder: Path, manifest: Manifest, *, repair: bool = False, check: Callable[[], None]
) -> FolderContent:
    """Find out which state of the package a target folder holds. Changes nothing.

    Args:
        folder: The target of a pull.
        manifest: The package.
        repair: Take files that were changed for damaged ones that may be overwritten.
        check: Called now and then; may raise.

    Raises:
        UsageError: The folder is something else's, or one of its files was changed.
        DiskError: It cannot be read.
    """
    with disk_errors(folder, "read"):
        if not lexists(folder):
            return FolderContent()
        if not folder.is_dir():
            raise UsageError("is a file, expected a folder", file=str(folder))
        try:
            recorded = state_file.read(folder)
        except FormatError:
            if not repair:
                raise
            recorded = None
        if recorded is None:
            return _unrecorded(folder, manifest, repair, check)
        if recorded.refining is not None:
            _check_name(folder, manifest, recorded)
            return FolderContent(None, recorded, recorded.refining)
        return _recorded(folder, manifest, recorded, repair, check)


def _check_name(folder: Path, manifest: Manifest, recorded: StateFile) -> None:
    if recorded.name != manifest.name:
        raise UsageError(
            f"holds the model {recorded.name!r}, not {manifest.name!r}",
            file=str(folder),
            hint="Choose another folder, or remove this one",
        )


def _unrecorded(
    folder: Path, manifest: Manifest, repair: bool, check: Callable[[], None]
) -> FolderContent:
    """A folder without a state file: empty, a copy of one of the states, or not ours."""
    if not any(path.name not in _NOT_CONTENT for path in folder.iterdir()):
        return FolderContent()
    found = list(_Candidates(folder, check, own=True).parents(manifest))
    if found:
        parent = found[0]
        for other in found[1:]:
            # A version that only removes files is in the folder of the one before, too.
            if set(other.paths) > set(parent.paths):
                parent = other
        return FolderContent(parent)
    if repair and any(
        all(_size(folder, file.path) == file.size for file in release.files)
        for release in manifest.releases
        if not release.foreign
    ):
        return FolderContent()
    raise UsageError(
        "the folder is not empty and holds no state of this package",
        file=str(folder),
        hint="Choose another folder; nothing was changed",
    )


def _recorded(
    folder: Path,
    manifest: Manifest,
    recorded: StateFile,
    repair: bool,
    check: Callable[[], None],
) -> FolderContent:
    """A folder that an earlier pull filled, perhaps from another package."""
    digests: dict[str, str] = {}
    changed = []
    fresh = True
    for entry in recorded.files:
        digest = entry.sha256
        if not entry.fits(folder):
            fresh = False
            path = folder / entry.path
            if not lexists(path):
                continue
            digest = hash_file(path, check) if path.is_file() else ""
            if digest != entry.sha256:
                changed.append(entry.path)
        digests[entry.path] = digest
    state = _match(manifest, digests)
    if state is None:
        _check_name(folder, manifest, recorded)
        if changed and not repair:
            raise UsageError(
                "was changed or damaged since it was pulled",
                file=str(folder / changed[0]),
                hint="To fetch it again and overwrite it, use --repair (repair=True); to keep it, "
                "move it away first",
            )
        damaged = _damaged(folder, manifest, recorded, digests, check)
        return FolderContent(None, recorded, None, fresh, damaged)
    return FolderContent(parent_in(folder, manifest, state), recorded, None, fresh)


def _damaged(
    folder: Path,
    manifest: Manifest,
    recorded: StateFile,
    digests: dict[str, str],
    check: Callable[[], None],
) -> tuple[State, tuple[int, ...]] | None:
    """See `FolderContent.damaged`. All files are read: where one is damaged, others may be."""
    state = next((s for s in manifest.states if s.digest == recorded.digest), None)
    if state is None:
        return None
    release = manifest.release(state)
    number = release.number(state)
    wrong = []
    for place, file in enumerate(release.files):
        found = digests.get(file.path)
        if found == file.digest(number):
            found = hash_file(folder / file.path, check)
        if found != file.digest(number):
            wrong.append(place)
    return (state, tuple(wrong)) if len(wrong) < len(release.files) else None


def _size(folder: Path, path: str) -> int:
    full = folder / path
    return full.stat().st_size if full.is_file() else -1


def _match(manifest: Manifest, digests: dict[str, str]) -> State | None:
    """The latest state whose files are exactly those with these digests."""
    for release in reversed(manifest.releases):
        if len(release.files) != len(digests):
            continue
        for number, state in reversed(tuple(enumerate(release.states))):
            if all(digests.get(f.path) == f.digest(number) for f in release.files):
                return state
    return None
