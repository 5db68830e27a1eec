"""Modes of a target's files: the next state is as private as the one that it replaces."""

from __future__ import annotations

import os
import stat

from p2u.client.folder.work_folder import WorkFolder
from p2u.disk import access
from p2u.package.manifest import Release


def keep_modes(release: Release, work: WorkFolder) -> None:
    """Give the files of the next state the modes that those in the target have.

    A file that the target lacks may be read by nobody who may read none of its others.

    Args:
        release: Of the next state, whose files are in ``work.next``.
        work: The work folder, locked.

    Raises:
        OSError: A file cannot be looked at.
    """
    former: dict[str, os.stat_result] = {}
    for entry in release.files:
        try:
            found = (work.target / entry.path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(found.st_mode):
            former[entry.path] = found
    if not former:
        return
    bits = 0
    for found in former.values():
        bits |= stat.S_IMODE(found.st_mode)
    for entry in release.files:
        path = work.next / entry.path
        if entry.path in former:
            if not os.path.samestat(former[entry.path], path.lstat()):
                access.take_over(path, former[entry.path])
        else:
            access.restrict(path, bits)
