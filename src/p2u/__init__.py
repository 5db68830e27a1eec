"""P2U: progressive, lossless delivery of model weights.

``pack`` a model directory, ``pull`` it to disk or ``open`` it in memory: usable after a fifth of
the bytes, bit-identical to the original at the end.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from p2u.errors import (
    BusyError,
    Cancelled,
    CoreError,
    DiskError,
    FormatError,
    IntegrityError,
    NotFoundError,
    P2UError,
    StoreError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from p2u.pack import pack
    from p2u.pull import pull
    from p2u.replica import Replica, load
    from p2u.replica import open_replica as open  # noqa: A004 - p2u.open() is its name
    from p2u.verify import verify

__all__ = [
    "BusyError",
    "Cancelled",
    "CoreError",
    "DiskError",
    "FormatError",
    "IntegrityError",
    "NotFoundError",
    "P2UError",
    "Replica",
    "StoreError",
    "UnsupportedError",
    "UsageError",
    "load",
    "open",
    "pack",
    "pull",
    "verify",
]

#: Public name to where it lives; imported when first used, so that `import p2u` is quick.
_LAZY = {
    "Replica": ("p2u.replica", "Replica"),
    "load": ("p2u.replica", "load"),
    "open": ("p2u.replica", "open_replica"),
    "pack": ("p2u.pack", "pack"),
    "pull": ("p2u.pull", "pull"),
    "verify": ("p2u.verify", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'p2u' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``p2u.pack`` the function: importing the module of that name would replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _LAZY and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
