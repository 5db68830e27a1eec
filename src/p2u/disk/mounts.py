"""The file system that a file is on, as Linux lists it."""

from __future__ import annotations

import os

#: Network file systems whose locks stay on the machine that takes them.
_OWN_LOCKS = {"9p", "fuse.gcsfuse", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "vboxsf"}
#: Options that have the same effect: of NFS and of Lustre.
_OWN_LOCKS_OPTIONS = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}

_MOUNTS = "/proc/self/mountinfo"


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
