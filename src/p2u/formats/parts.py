"""Models in several files: all parts belong to the model, and have to be there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from p2u.errors import DiskError, FormatError
from p2u.formats import shards

#: ``model-00001-of-00003.gguf``, ``pytorch_model_1-of-2.fp16.bin``.
_PART = re.compile(r"(.*[-_.])([0-9]{1,6})-of-([0-9]{1,6})((?:\.[^/]*)?)\Z", re.ASCII | re.DOTALL)
#: Parts that do not say how many there are, by the name that their writers give them.
_RANK = re.compile(r"(consolidated[._-]|mp_rank_|zero_pp_rank_|model-rank-)([0-9]+)(.*)", re.ASCII)


def check_parts(files: Iterable[str]) -> None:
    """Check that all parts of each model are there.

    Args:
        files: The model files of a directory.

    Raises:
        FormatError: Some are missing.
    """
    groups: dict[tuple[str, int, str], dict[int, str]] = {}
    for file in files:
        if match := _PART.match(file):
            group = groups.setdefault((match[1], int(match[3]), match[4]), {})
            group[int(match[2])] = file
    for (_, count, _), held in sorted(groups.items()):
        first = 0 if 0 in held else 1
        missing = [n for n in range(first, first + count) if n not in held]
        if missing:
            raise FormatError(
                f"{len(missing)} of the {count} files of the model are missing, the first "
                f"is number {missing[0]}",
                file=held[min(held)],
                hint="Fetch the missing files into the same folder",
            )


def all_parts(root: str, name: str) -> list[str]:
    """The files of the model that a file is a part of, as loaders find them; itself if it is whole.

    Args:
        root: The folder that it is in.
        name: Its name.

    Returns:
        Their names, sorted: those of its parts, and an index that lists them. Missing parts are
        not in it, see `check_parts` and `shards.check_index`.
    """
    try:
        others = sorted(os.listdir(root))  # noqa: PTH208 - strings throughout
    except OSError:
        return [name]  # the file can be read all the same
    found = {name}
    for pattern in (_PART, _RANK):
        if match := pattern.match(name):
            found |= {other for other in others if _are_siblings(pattern, match, other)}
    for index in others:
        if shards.is_index(index) and name in (listed := _listed(root, index)):
            found |= {index, *(listed & set(others))}
    return sorted(found)


def _are_siblings(pattern: re.Pattern[str], match: re.Match[str], other: str) -> bool:
    """Whether two names differ in the number of the part only."""
    found = pattern.match(other)
    return found is not None and (found[1], found.groups()[2:]) == (match[1], match.groups()[2:])


def _listed(root: str, index: str) -> set[str]:
    """The files that an index lists; none if it cannot be read, as it is not what was named."""
    try:
        return set(shards.read_weight_map(str(Path(root, index)), index).values())
    except (DiskError, FormatError):
        return set()
