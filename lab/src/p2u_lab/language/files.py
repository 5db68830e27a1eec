"""Magika on files whose types are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p2u_lab.base import Scores, Task
from p2u_lab.language.items import shuffled
from p2u_lab.language.onnx import session
from p2u_lab.language.samples import made, modules

#: Files of each type that we make, and modules of Python's.
EACH, MODULES = 10, 60


class Files(Task):
    """The network's first choice of 214 types, by the first and last 1024 bytes of a file.

    The rules around it (thresholds, magic numbers) are left out: they would hide the network.

    Args:
        limit: Files; all by default.
    """

    name = "files"
    metric = "accuracy"

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._items: list[tuple[str, str, bytes]] = []

    def prepare(self) -> None:
        """Make the files."""
        if not self._items:
            every = shuffled([*made(EACH), *modules(MODULES)], lambda item: item[0])
            self._items = every[: self.limit]

    def scores(self, folder: Path) -> Scores:
        """1 where the type is right."""
        self.prepare()
        network = session(folder)
        config = json.loads((folder / "config.min.json").read_text())
        given = np.stack([features(content, config) for _, _, content in self._items])
        answers = network.run(None, {network.get_inputs()[0].name: given})[0]
        labels = config["target_labels_space"]
        right = [
            labels[k] == item[1] for k, item in zip(answers.argmax(1), self._items, strict=True)
        ]
        return Scores(np.array(right, np.float64))


def features(content: bytes, config: dict[str, Any]) -> npt.NDArray[np.int32]:
    """What the network sees of a file: its ends without white space, padded in the middle.

    Args:
        content: Of the file.
        config: Magika's ``config.min.json`` of version 3.

    Returns:
        Bytes, 256 where there are none, shape (beginning + end,).
    """
    first, last = config["beg_size"], config["end_size"]
    block, padding = config["block_size"], config["padding_token"]
    head = content[:block].lstrip()[:first]
    tail = content[-block:].rstrip()[-last:]
    row = np.full(first + last, padding, np.int32)
    row[: len(head)] = np.frombuffer(head, np.uint8)
    row[len(row) - len(tail) :] = np.frombuffer(tail, np.uint8)
    return row
