"""Libraries that are installed with the extra ``p2u-models[eval]``, or not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from p2u.eval.base import MissingDataError


def imported(name: str) -> Any:
    """Import a library that a task needs.

    Raises:
        MissingDataError: It does not import.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDataError(
            f"{name.partition('.')[0]} does not import: {error}",
            hint="pip install 'p2u-models[eval]'",
        ) from error
