"""Changes of JSON trees, for lies in manifests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def at(tree: Any, *way: Any) -> Any:
    for step in way:
        tree = tree[step]
    return tree


def put(*way: Any) -> Callable[[Any], None]:
    """A change: the last of ``way`` at the place that the others name."""
    *way, key, value = way  # type: ignore[assignment]
    return lambda tree: at(tree, *way).__setitem__(key, value)
