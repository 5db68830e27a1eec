"""Scratch folders: files in the making, next to their place, so that a rename puts them there."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from p2u.disk import files


def scratch_path(target: Path, kind: str) -> Path:
    """A free path ``.NAME.xxxxxxxx.KIND`` next to a target; names the target if we are killed."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}")


def make_empty(path: Path) -> None:
    """Make a folder; a former file, link or folder of that name is removed."""
    files.remove_tree(path)
    path.mkdir()


class ScratchFolder:
    """A folder that is empty at first and removed in the end, if it is still there.

    A context manager.

    Args:
        path: The folder.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> ScratchFolder:
        make_empty(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
