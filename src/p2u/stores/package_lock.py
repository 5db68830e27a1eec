"""The lock of a package's folder: one publisher at a time."""

from __future__ import annotations

from pathlib import Path

from p2u.disk.errors import UNPUBLISHED
from p2u.disk.locks import FileLock

NAME = ".p2u-lock"


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
        across_hosts=True,
        full=UNPUBLISHED,
    )
