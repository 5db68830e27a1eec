"""Files of a state in the cache, whole: folders with the same model share their blocks.

They are there where the file system can make reflinks, and take no room. A copy for ordinary file
systems would take as much as the model, next to the chunks that it is made of.
"""

from __future__ import annotations

from pathlib import Path

from p2u.client.folder.copied import copy_state
from p2u.client.folder.local import FoundState
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import DiskError, IntegrityError
from p2u.package.manifest import State


def keep_files(package: PackageReader, state: State, folder: Path) -> None:
    """Keep the files of a folder that holds a state, if that takes no room."""
    if package.cached is None:
        return
    files = package.manifest.release(state).files
    for file, digest in zip(files, _digests(package, state), strict=True):
        package.cached.cache.objects.link(digest, folder / file.path)


def find_files(package: PackageReader, state: State) -> FoundState | None:
    """A state all of whose files the cache has; they are checked when they are copied."""
    if package.cached is None:
        return None
    objects = package.cached.cache.objects
    digests = _digests(package, state)
    if not all(map(objects.has, digests)):
        return None
    return FoundState(state, tuple(map(objects.path, digests)), own=False)


def copy_found(package: PackageReader, work: WorkFolder, found: FoundState) -> bool:
    """Let the target be a state that is elsewhere.

    Returns:
        Whether it is. If not, it was one of `find_files`, and wrong; it is no more there.

    Raises:
        The errors of `copy_state`.
    """
    try:
        copy_state(package, work, found)
    except (IntegrityError, DiskError):
        if package.cached is None:
            raise
        objects = package.cached.cache.objects
        digests = _digests(package, found.state)
        if found.paths != tuple(map(objects.path, digests)):
            raise
        for digest in digests:
            objects.remove(digest)
        return False
    return True


def _digests(package: PackageReader, state: State) -> list[str]:
    """The SHA-256 in hex of each file of a state."""
    release = package.manifest.release(state)
    number = release.number(state)
    return [file.digest(number) for file in release.files]
