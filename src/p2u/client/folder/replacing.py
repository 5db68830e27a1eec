"""Replace a target's files: what belongs to no package stays, and so does the folder itself."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.state_file import StateFile
from p2u.disk import durable, files
from p2u.disk.files import lexists
from p2u.errors import FormatError
from p2u.package.paths import RESERVED

#: Name of a link on its way to its place.
_PART = f"{RESERVED}-file.part"


def adopt(source: Path, target: Path) -> None:
    """Give ``target`` all files of ``source`` that belong to no package and that it lacks."""
    ours = {state_file.NAME, state_file.PART, _PART, *_paths(source)}
    for name, folders, names in os.walk(source):
        folder = Path(name)
        below = folder.relative_to(source)
        if folder == source and RESERVED in folders:
            folders.remove(RESERVED)  # a work folder
        links = [name for name in folders if (folder / name).is_symlink()]
        for path in (below / name for name in (*names, *links)):
            if path.as_posix() not in ours and not lexists(target / path):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                files.link_or_copy(source / path, target / path)
        if not folders and not names:
            (target / below).mkdir(parents=True, exist_ok=True)


def give_files(source: Path, target: Path) -> None:
    """Let ``target`` have the model files of ``source`` too, each replaced in one step.

    The state file comes last: until then, ``target`` says that it is its former state.

    Raises:
        OSError: The file system has no links, or one cannot be made. ``target`` may have some
            files of either state then.
    """
    made = _read(source)
    if made is None:
        raise FileNotFoundError(2, "no state file", str(source))
    part = target / _PART
    paths = [entry.path for entry in made.files]
    for path in [*paths, None, state_file.NAME]:
        if path is None:
            _remove(target, set(_paths(target)).difference(paths))
            continue
        new, place = source / path, target / path
        if lexists(place) and os.path.samestat(new.lstat(), place.lstat()):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        os.link(new, part, follow_symlinks=False)
        part.replace(place)
    durable.sync_folders(target)


def move_files(source: Path, target: Path) -> None:
    """Move the model files of ``source`` to ``target``, each in one step; the state file last.

    Goes on where an earlier call was killed.

    Raises:
        OSError: A file cannot be moved.
    """
    made = _read(source)
    if made is None:
        raise FileNotFoundError(2, "no state file", str(source))
    paths = [entry.path for entry in made.files]
    for path in paths:
        if lexists(source / path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            _move(source / path, target / path)
    _remove(target, set(_paths(target)).difference(paths))
    durable.sync_folders(target)
    (source / state_file.NAME).replace(target / state_file.NAME)
    durable.sync_folder(target)


def _move(source: Path, target: Path) -> None:
    """Move a file; where another one is a mount point itself, give that one its bytes.

    If that is broken off, ``source`` is there still.
    """
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV) or not os.path.ismount(target):
            raise
    size = source.stat().st_size
    with files.open_file(source, "rb") as old, files.open_file(target, "rb+") as new:
        files.copy_range(old, 0, new, 0, size)
        new.truncate(size)
        durable.sync(new)
    source.unlink()


def _read(folder: Path) -> StateFile | None:
    try:
        return state_file.read(folder)
    except FormatError:
        return None


def _paths(folder: Path) -> list[str]:
    """The package's files in a folder, by its state file."""
    recorded = _read(folder)
    return [entry.path for entry in recorded.files] if recorded is not None else []


def _remove(folder: Path, paths: set[str]) -> None:
    """Remove files that the next state does not have, and folders that are empty without them."""
    for path in sorted(paths):
        files.remove_below(folder, path)
    for parent in sorted({path.rpartition("/")[0] for path in paths} - {""}, reverse=True):
        with contextlib.suppress(OSError):
            (folder / parent).rmdir()
