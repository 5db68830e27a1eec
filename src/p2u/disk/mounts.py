"""Mounts, as Linux lists them: where they are, and what their file systems can do."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: Network file systems whose locks stay on the machine that takes them.
_OWN_LOCKS = {"9p", "fuse.gcsfuse", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "vboxsf"}
#: Options that have the same effect: of NFS and of Lustre.
_OWN_LOCKS_OPTIONS = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}

#: ``os.path.ismount`` does not see a bind mount of the same file system; this table has it.
_MOUNTS = "/proc/self/mountinfo"
_ESCAPE = re.compile(r"\\([0-7]{3})")


def mounts_at(folder: Path) -> bool:
    """Whether a folder, or anything below it, is a mount point: then it cannot be renamed.

    Args:
        folder: Without symbolic links; it need not exist.
    """
    if os.path.ismount(folder):
        return True
    return any(point == folder or folder in point.parents for point in _points())


def _points() -> list[Path]:
    """All mount points of this process; none where the system has no table."""
    try:
        lines = Path(_MOUNTS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    fields = [line.split(" ") for line in lines]
    return [Path(_unescape(found[4])) for found in fields if len(found) > 4]


def _unescape(text: str) -> str:
    """The table writes blanks, tabs, newlines and backslashes as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def shares_locks(fd: int) -> bool:
    """Whether a lock on an open file excludes processes of all machines that reach the file.

    True where nothing else is known: a local file system has no other machines.
    """
    device = os.fstat(fd).st_dev
    name = f"{os.major(device)}:{os.minor(device)}" if hasattr(os, "major") else ""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="replace") as lines:
            found = [line.split() for line in lines if f" {name} " in line]
    except OSError:
        return True
    for fields in found:
        if fields[2] != name or "-" not in fields:
            continue
        # See proc(5): optional fields end with a hyphen; type, source and options follow.
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        if kind in _OWN_LOCKS or _OWN_LOCKS_OPTIONS & set(options.split(",")):
            return False
    return True
