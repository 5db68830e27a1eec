"""The common parts of the tasks: one choice of items everywhere, and how texts differ."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shuffled(items: Sequence[T], key: Callable[[T], str]) -> list[T]:
    """The items in an order that looks random and depends on nothing but their keys."""
    return sorted(items, key=lambda item: hashlib.sha256(key(item).encode()).digest())


def edits(have: Sequence[str], want: Sequence[str]) -> int:
    """The Levenshtein distance: insertions, deletions and replacements from one to the other."""
    row = list(range(len(want) + 1))
    for n, a in enumerate(have, 1):
        corner, row[0] = row[0], n
        for m, b in enumerate(want, 1):
            corner, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, corner + (a != b))
    return row[-1]
