"""Recognise a folder that was pulled to a state before the exact one: it is not the model."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2u.disk.files import hash_file
from p2u.errors import UsageError
from p2u.formats import ScannedModel
from p2u.packing.recipe import EXACT

#: The state file that a pull leaves in a folder, and most bytes of it.
STATE_FILE = ".p2u-state.json"
_LIMIT = 64 << 20


def check_exact(src: str, model: ScannedModel) -> None:
    """Raise UsageError if a file with tensors is still what a pull of another state made it.

    Args:
        src: The model, as the user calls it.
        model: Its files.
    """
    root = Path(os.path.realpath(model.root))
    for folder in (root, *root.parents):
        tree = _read(folder / STATE_FILE)
        if tree is None:
            continue
        state = str(tree.get("state"))
        if state.rpartition("@")[2] == EXACT and tree.get("refining") is None:
            return
        for entry in model.files:
            if entry.spans and _is_recorded(root / entry.path, folder, tree):
                raise UsageError(
                    f"was pulled to the state {state} of {tree.get('name')!r}, and {entry.path} is "
                    "that state's still, not the exact one",
                    file=src,
                    hint="Run `p2u pull` without --until first; --force packs it as it is",
                )
        return


def _read(path: Path) -> dict[str, Any] | None:
    """What a state file says; None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError), open(path, "rb") as stream:
        tree = json.loads(stream.read(_LIMIT))
        if isinstance(tree, dict):
            return tree
    return None


def _is_recorded(path: Path, folder: Path, tree: dict[str, Any]) -> bool:
    """Whether a file is one that a state file lists, unchanged."""
    for name, size, digest in _recorded(tree):
        if folder / name == path:
            with contextlib.suppress(OSError):
                return path.stat().st_size == size and hash_file(path, lambda: None) == digest
    return False


def _recorded(tree: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    files = tree.get("files")
    for entry in files if isinstance(files, list) else ():
        if isinstance(entry, list) and len(entry) >= 3 and isinstance(entry[0], str):
            yield entry[0], entry[1], entry[2]
