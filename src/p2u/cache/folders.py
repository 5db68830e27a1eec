"""The folders of a cache have the permissions of its own folder, so that users may share it."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path


def make_folder(folder: Path, root: Path) -> int:
    """Make a folder below the cache's own, and those between.

    Returns:
        The permissions of ``root``.

    Raises:
        OSError: It cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(root.stat().st_mode)
    made = root
    for name in folder.relative_to(root).parts:
        made = made / name
        with contextlib.suppress(FileExistsError):
            made.mkdir()
            with contextlib.suppress(OSError):  # some file systems have no permissions
                made.chmod(mode)
    return mode
