"""Libraries that may be installed or not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from p2u_lab.base import MissingDataError


def imported(
    name: str, package: str | None = None, hint: str = "pip install 'p2u-lab[torch]'"
) -> Any:
    """Import a library.

    Args:
        name: Of the module.
        package: What pip calls it; by default the module's first name.
        hint: How to get it.

    Raises:
        MissingDataError: It does not import.
    """
    try:
        return import_module(name)
    except ImportError as error:
        what = package or name.partition(".")[0]
        raise MissingDataError(f"{what} does not import: {error}", hint=hint) from error
