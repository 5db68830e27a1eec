"""Prefixes: how the names of one model's tensors become those of another one's.

A bare model and a model with a head differ by a prefix (``bert.``), and so does one that was
wrapped (``module.``, ``_orig_mod.``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

#: Names that are searched for longer prefixes than their first part: the deepest ones.
TRIED = 16


def find_renaming(names: Iterable[str], wanted: Collection[str]) -> Callable[[str], str]:
    """The prefix to remove or to add so that most names are among those wanted.

    Args:
        names: Dotted names.
        wanted: Those of the other model.

    Returns:
        A function that renames one name. It changes nothing if as many names fit unchanged.
    """
    given = list(names)
    deepest = sorted(given, key=lambda n: (-n.count("."), n))[:TRIED]
    removed = _first_parts(given)
    removed |= {n[: -len(w)] for n in deepest for w in wanted if n.endswith("." + w)}
    added = _first_parts(wanted)
    added |= {w[: -len(n)] for n in deepest for w in wanted if w.endswith("." + n)}
    choices = [("", ""), *((prefix, "") for prefix in sorted(removed))]
    choices += [("", prefix) for prefix in sorted(added)]

    def renamed(name: str, removed: str, added: str) -> str:
        return added + name.removeprefix(removed)

    best = max(choices, key=lambda choice: sum(renamed(name, *choice) in wanted for name in given))
    return lambda name: renamed(name, *best)


def _first_parts(names: Iterable[str]) -> set[str]:
    """First parts of names, with the dot."""
    return {name.partition(".")[0] + "." for name in names if "." in name}
