"""``p2u.clean``: remove what pulls that were given up have left next to their targets."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2u.client.folder import place, state_file
from p2u.client.folder.work_folder import NAMES, WorkFolder
from p2u.disk.errors import disk_errors
from p2u.disk.files import allocated_bytes
from p2u.errors import BusyError, FormatError, NotFoundError

__all__ = ["Leftover", "clean"]

_NAME = re.compile(r"\.(.+)\.p2u\Z")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A work folder that a pull has left.

    Attributes:
        path: The folder.
        target: The folder that was pulled to.
        bytes: Its bytes on the disk.
        age: Seconds since it was changed last.
        fate: ``"removed"``; ``"abandoned"``, in a dry run: it would be removed; ``"busy"``: a pull
            uses it; ``"needed"``: without it, the target's files would be of no state, since an
            ``--in-place`` was interrupted. Pull again to finish it.
    """

    path: str
    target: str
    bytes: int
    age: float
    fate: Literal["removed", "abandoned", "busy", "needed"]


def clean(folder: str | os.PathLike[str], *, dry_run: bool = False) -> tuple[Leftover, ...]:
    """Remove the work folders of a target, or of all targets in a folder.

    What a pull was about to put into its place is put there; what it had fetched is lost, and
    fetched again by the next pull. The targets stay as they are.

    Args:
        folder: A folder that was pulled to, whether it is there or not, or one that has such
            folders.
        dry_run: Only list them.

    Raises:
        NotFoundError: There is neither such a folder nor a work folder of it.
        DiskError: It cannot be read, or something cannot be removed.
    """
    with disk_errors(os.fspath(folder), "read"):
        target = Path(folder).resolve()
        found = [work for work in _candidates(target) if _is_work_folder(work.path)]
        if not found and not target.is_dir():
            raise NotFoundError("no such folder", file=str(folder), hint="Check the path")
    return tuple(_clean(work, dry_run=dry_run) for work in found)


def _candidates(target: Path) -> Iterator[WorkFolder]:
    for path in (place.outside(target), place.inside(target)):
        yield WorkFolder(target, path)
    if target.is_dir():
        for path in sorted(target.iterdir()):
            name = _NAME.match(path.name)
            if name is not None:
                yield WorkFolder(path.with_name(name[1]), path)


def _is_work_folder(path: Path) -> bool:
    """Whether a folder is one of ours: it has no other names than those that we give."""
    try:
        kind = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISDIR(kind) and all(inner.name in NAMES for inner in path.iterdir())


def _clean(work: WorkFolder, *, dry_run: bool) -> Leftover:
    with disk_errors(work.path):
        size, age = allocated_bytes(work.path), time.time() - work.path.stat().st_mtime
    fate: Literal["removed", "abandoned", "busy", "needed"] = "removed"
    try:
        work.acquire()
    except BusyError:
        fate = "busy"
    else:
        done = False
        try:
            if _is_refining(work.target):
                fate = "needed"
            elif dry_run:
                fate = "abandoned"
            else:
                work.settle()
                done = True
        finally:
            work.release(remove=done)
    return Leftover(str(work.path), str(work.target), size, max(0.0, age), fate)


def _is_refining(target: Path) -> bool:
    with disk_errors(target, "read"):
        try:
            recorded = state_file.read(target)
        except FormatError:
            return False
    return recorded is not None and recorded.refining is not None
