"""Finished cells on disk, so that nothing is measured twice.

A cell is a model, a task, a method and bits. Its file's name is the digest of all that could
change it, so a cell is found or not, and never stale. Scores of single items are kept next to it,
by task and digest of the files that were scored: two methods that give the same files (or a
method that gives the original back) are scored once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from p2u.errors import DiskError, FormatError
from p2u_lab.base import Scores

#: Goes up when the files of cells change.
FORMAT = 1

Status = Literal["done", "unsupported", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Key:
    """All that a cell depends on.

    Attributes:
        model: Digest of the model's files (see `folder_digest`).
        task: Name.
        task_version: Of the task's class.
        limit: Most items; None for all.
        method: The name it is asked for by; its points may have names of their own.
        method_version: Of the method's class.
        bits: Bits asked for; None for the points of a method that has no choice.
        p2u: P2U's version and its core's ABI.
    """

    model: str
    task: str
    task_version: int
    limit: int | None
    method: str
    method_version: int
    bits: float | None
    p2u: str

    @property
    def digest(self) -> str:
        """The name of the cell's file: 32 hexadecimal digits."""
        return _digest(asdict(self))


@dataclass(frozen=True, slots=True)
class CellPoint:
    """A point of a method as it was measured.

    Attributes:
        method: Its own name, see `p2u_lab.base.Point`; likewise the next four.
        state: See above.
        bits: See above.
        bytes: See above.
        exact: See above; it was checked.
        files: Digest of the receiver's files: the key of their scores.
    """

    method: str
    state: str
    bits: float | None
    bytes: int
    exact: bool
    files: str


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of a cell.

    Attributes:
        status: ``"done"``, or why there are no (or not all) points.
        points: In the order in which a receiver comes by them.
        reason: The error's message if not done.
        seconds: How long it took, preparation and scoring together; 0 if not known.
        choice: Whether the method's points depend on the bits asked for.
    """

    status: Status
    points: tuple[CellPoint, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    choice: bool = True


def _digest(tree: Mapping[str, Any]) -> str:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder, in order; hidden ones (a client's notes) are not the model's.

    Raises:
        DiskError: There is none.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(n.startswith(".") for n in path.relative_to(folder).parts)
    ]
    if not files:
        raise DiskError("has no files", file=str(folder))
    return files


def folder_digest(folder: Path) -> str:
    """SHA-256 (32 hexadecimal digits) of a model's files: their relative names and bytes.

    Raises:
        DiskError: A file cannot be read, or there is none.
    """
    whole = hashlib.sha256()
    for path in model_files(folder):
        one = hashlib.sha256()
        try:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    one.update(block)
        except OSError as e:
            raise DiskError(e.strerror or str(e), file=str(path)) from e
        name = path.relative_to(folder).as_posix().encode()
        whole.update(len(name).to_bytes(8, "little") + name + one.digest())
    return whole.hexdigest()[:32]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        DiskError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as e:
        raise DiskError(e.strerror or str(e), file=str(path), hint="Is the disk full?") from e


class CellStore:
    """Cells and scores in a folder.

    Args:
        root: The folder; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def _cell_path(self, key: Key) -> Path:
        return self.root / "cells" / f"{key.digest}.json"

    def _scores_path(self, task: str, version: int, limit: int | None, files: str) -> Path:
        tree = {"task": task, "version": version, "limit": limit, "files": files, "format": FORMAT}
        return self.root / "scores" / f"{_digest(tree)}.npz"

    def load(self, key: Key) -> Cell | None:
        """A finished cell, or None. One that only lacked data or a library is not finished."""
        try:
            tree = json.loads(self._cell_path(key).read_bytes())
            if tree["format"] != FORMAT:
                return None
            points = tuple(CellPoint(**p) for p in tree["points"])
            cell = Cell(**{**tree["cell"], "points": points})
        except FileNotFoundError:
            return None
        except OSError as e:
            raise DiskError(e.strerror or str(e), file=str(self._cell_path(key))) from e
        except (ValueError, KeyError, TypeError):
            return None  # of an older version or a broken disk: measured again
        complete = cell.status in ("done", "unsupported") and all(
            self._scores_path(key.task, key.task_version, key.limit, p.files).is_file()
            for p in points
        )
        return cell if complete else None

    def save(self, key: Key, cell: Cell) -> None:
        """Keep a cell.

        Raises:
            DiskError: It cannot be written.
        """
        head = asdict(replace(cell, points=()))
        del head["points"]
        tree = {
            "format": FORMAT,
            "key": asdict(key),
            "cell": head,
            "points": [asdict(p) for p in cell.points],
        }
        write_whole(self._cell_path(key), (json.dumps(tree, indent=1) + "\n").encode())

    def scores(self, task: str, version: int, limit: int | None, files: str) -> Scores | None:
        """The scores of a folder's files on a task, if they are known.

        Raises:
            FormatError: Their file is broken.
        """
        path = self._scores_path(task, version, limit, files)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                weights = arrays.get("weights")
                names, numbers = arrays["names"], arrays["numbers"]
                extra = {str(k): float(v) for k, v in zip(names, numbers, strict=True)}
                return Scores(arrays["values"], weights, extra)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as e:
            raise FormatError(str(e), file=str(path), hint="Remove it") from e

    def save_scores(
        self, task: str, version: int, limit: int | None, files: str, scores: Scores
    ) -> None:
        """Keep the scores of a folder's files.

        Raises:
            DiskError: They cannot be written.
        """
        stream = io.BytesIO()
        arrays: dict[str, Any] = {"values": np.asarray(scores.values, np.float64)}
        if scores.weights is not None:
            arrays["weights"] = np.asarray(scores.weights, np.float64)
        arrays["names"] = np.array(list(scores.extra), dtype=np.str_)
        arrays["numbers"] = np.array(list(scores.extra.values()), dtype=np.float64)
        np.savez_compressed(stream, **arrays)
        write_whole(self._scores_path(task, version, limit, files), stream.getvalue())
