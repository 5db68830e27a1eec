"""Name the extra of P2U whose libraries an adapter needs and does not find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from p2u._lazy import lazy_names
from p2u.errors import UnsupportedError


def adapter_names(
    package: str, names: Mapping[str, tuple[str, str | None]], library: str, extra: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`lazy_names` of an adapter, whose names need a library.

    Args:
        package: See `lazy_names`.
        names: See `lazy_names`.
        library: It is looked for when a name is first used, and not imported.
        extra: The extra of the distribution that brings it.
    """
    get, directory = lazy_names(package, names)

    def getattribute(name: str) -> Any:
        if name in names:
            check_library(library, extra, f"{package.replace('.adapters', '')}.{name}")
        return get(name)

    return getattribute, directory


def check_library(library: str, extra: str, user: str) -> None:
    """Check that a library is installed.

    Args:
        library: Its name as an import.
        extra: The extra that brings it.
        user: What needs it, for the message.

    Raises:
        UnsupportedError: It is not.
    """
    try:
        found = find_spec(library) is not None
    except ValueError:  # it is being imported, or was put there by hand
        found = True
    except ImportError:  # somebody keeps it away
        found = False
    if not found:
        raise UnsupportedError(
            f"{user} needs the library {library}, which is not installed",
            hint=f"Install it: pip install 'p2u-models[{extra}]', in a clone '.[{extra}]'",
        )
