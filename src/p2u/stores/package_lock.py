"""The lock of a package's folder: one publisher at a time."""

from __future__ import annotations

from pathlib import Path

from p2u.disk.errors import UNPUBLISHED
from p2u.disk.locks import FileLock
from p2u.disk.scratch import LOCK

#: A package that was just moved to its place has the lock of its scratch folder for a moment.
NAME = LOCK


def package_lock(folder: Path) -> FileLock:
    """The lock of a package, not yet taken.

    Args:
        folder: The package, which exists.
    """
    return FileLock(
        folder / NAME,
        "{owner} publishes to this package",
        "Wait until it has ended",
        file=folder,
        full=UNPUBLISHED,
    )
