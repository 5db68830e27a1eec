"""Changes JSON trees: at a named place, for lies in manifests, or at any place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


def at(tree: Any, *way: Any) -> Any:
    for step in way:
        tree = tree[step]
    return tree


def put(*way: Any) -> Callable[[Any], None]:
    """A change: the last of ``way`` at the place that the others name."""
    *way, key, value = way  # type: ignore[assignment]
    return lambda tree: at(tree, *way).__setitem__(key, value)


def any_place(data: st.DataObject, tree: Any) -> tuple[Any, Any]:
    """A node of the tree and one of its keys, drawn."""
    node = tree
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            return node, key
        node = node[key]
