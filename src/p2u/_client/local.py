"""What a target folder holds: nothing, a state of the package, or something else altogether."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2u._client import statefile
from p2u._client.files import disk_errors, hash_file, lexists
from p2u._client.statefile import StateFile
from p2u.errors import FormatError, UsageError
from p2u.manifest import Manifest, State


@dataclass(frozen=True, slots=True)
class Local:
    """What was found.

    Attributes:
        state: The state that all files are of; None if they are of none.
        recorded: The folder's state file, if it has one.
        refining: Digest of the state that an interrupted ``--in-place`` was on its way to.
        fresh: Whether the hints of the state file fit.
    """

    state: State | None = None
    recorded: StateFile | None = None
    refining: str | None = None
    fresh: bool = False


def inspect(
    folder: Path, manifest: Manifest, *, repair: bool = False, check: Callable[[], None]
) -> Local:
    """Find out which state of the package a folder holds. Changes nothing.

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
            return Local()
        if not folder.is_dir():
            raise UsageError("is a file, expected a folder", file=str(folder))
        try:
            recorded = statefile.read(folder)
        except FormatError:
            if not repair:
                raise
            recorded = None
        if recorded is None:
            return _unrecorded(folder, manifest, repair, check)
        if recorded.name != manifest.name:
            raise UsageError(
                f"holds the model {recorded.name!r}, not {manifest.name!r}",
                file=str(folder),
                hint="Choose another folder, or remove this one",
            )
        if recorded.refining is not None:
            return Local(None, recorded, recorded.refining)
        return _recorded(folder, manifest, recorded, repair, check)


def _unrecorded(folder: Path, manifest: Manifest, repair: bool, check: Callable[[], None]) -> Local:
    """A folder without a state file: empty, a copy of one of the states, or not ours."""
    if not any(folder.iterdir()):
        return Local()
    complete = [
        release
        for release in manifest.releases
        if all(_size(folder, file.path) == file.size for file in release.files)
    ]
    paths = {file.path for release in complete for file in release.files}
    digests = {path: hash_file(folder / path, check) for path in sorted(paths)}
    if state := _match(manifest, digests):
        return Local(state)
    if complete and repair:
        return Local()
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
) -> Local:
    """A folder that an earlier pull filled."""
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
    if state is None and changed and not repair:
        raise UsageError(
            "does not have the bytes that were pulled: it was changed or damaged",
            file=str(folder / changed[0]),
            hint="To fetch it again and overwrite it, use --repair (repair=True); to keep it, "
            "move it away first",
        )
    return Local(state, recorded, None, fresh)


def _size(folder: Path, path: str) -> int:
    full = folder / path
    return full.stat().st_size if full.is_file() else -1


def _match(manifest: Manifest, digests: dict[str, str]) -> State | None:
    """The best state whose files have these digests."""
    for release in reversed(manifest.releases):
        for number, state in reversed(tuple(enumerate(release.states))):
            if all(digests.get(f.path) == f.digest(number) for f in release.files):
                return state
    return None
