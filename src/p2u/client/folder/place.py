"""Where a target's work folder is: next to the target, or in it where the target cannot move."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from p2u.disk.mounts import mounts_at
from p2u.package.paths import RESERVED


def outside(target: Path) -> Path:
    """The work folder next to a target."""
    return target.with_name(f".{target.name}.p2u")


def inside(target: Path) -> Path:
    """The work folder in a target."""
    return target / RESERVED


def choose(target: Path) -> Path:
    """The work folder of a target.

    It is in the target where that is a mount point or has one in it, is on another file system than
    its parent, or where the parent is closed to us; and where an earlier run has left it.
    """
    own = inside(target)
    if own.is_dir() and not own.is_symlink():
        return own
    return own if target.is_dir() and _is_fixed(target) else outside(target)


def _is_fixed(folder: Path) -> bool:
    """Whether an existing folder cannot be replaced by another one."""
    if mounts_at(folder) or folder.parent == folder:
        return True
    parent, found = folder.parent.stat(), folder.stat()
    if parent.st_dev != found.st_dev or not _may_write(folder.parent):
        return True
    # In a folder such as /tmp only the owner of an entry may rename it.
    user = os.geteuid() if os.name == "posix" else 0
    return bool(parent.st_mode & stat.S_ISVTX) and user not in (0, parent.st_uid, found.st_uid)


def _may_write(folder: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
