"""P2U: progressive, lossless delivery of model weights.

``pack`` a model directory, ``pull`` it to disk or ``open`` it in memory: usable after a fifth of
the bytes, bit-identical to the original at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import make_lazy
from p2u.errors import (
    BusyError,
    Cancelled,
    ConflictError,
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
    from p2u.opening import load
    from p2u.opening import open_replica as open  # noqa: A004 - p2u.open() is its name
    from p2u.pack import gc, pack, publish
    from p2u.pull import pull
    from p2u.replica import Replica
    from p2u.runtime import onnx, sync, torch
    from p2u.verify import verify
    from p2u.watch import watch

__all__ = [
    "BusyError",
    "Cancelled",
    "ConflictError",
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
    "gc",
    "load",
    "onnx",
    "open",
    "pack",
    "publish",
    "pull",
    "sync",
    "torch",
    "verify",
    "watch",
]

make_lazy(
    __name__,
    {
        "Replica": ("p2u.replica", "Replica"),
        "gc": ("p2u.pack", "gc"),
        "load": ("p2u.opening", "load"),
        "onnx": ("p2u.runtime.onnx", None),
        "open": ("p2u.opening", "open_replica"),
        "pack": ("p2u.pack", "pack"),
        "publish": ("p2u.pack", "publish"),
        "pull": ("p2u.pull", "pull"),
        "sync": ("p2u.runtime.sync", None),
        "torch": ("p2u.runtime.torch", None),
        "verify": ("p2u.verify", "verify"),
        "watch": ("p2u.watch", "watch"),
    },
)
