"""P2U: progressive, lossless delivery of model weights.

``pack`` a model directory, ``pull`` it to disk or ``open`` it in memory: usable after a fifth of
the bytes, bit-identical to the original at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import lazy_names
from p2u.errors import (
    BusyError,
    Cancelled,
    ConflictError,
    CoreError,
    DiskError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    P2UError,
    StoreError,
    UnsupportedError,
    UsageError,
    WorkerError,
)

if TYPE_CHECKING:
    from p2u.adapters import onnx, sync, torch, vllm
    from p2u.client.folder.clean import clean
    from p2u.client.folder.pull import pull
    from p2u.client.folder.verify import verify
    from p2u.client.folder.watch import watch
    from p2u.client.live.opening import load
    from p2u.client.live.opening import open_replica as open  # noqa: A004 - p2u.open() is its name
    from p2u.client.live.replica import Replica
    from p2u.client.routes.fetch_plan import plan
    from p2u.client.transfer.options import TransferOptions
    from p2u.packing.api import gc, pack, publish
    from p2u.replication.mirror import mirror, push
    from p2u.replication.torrent import torrent
    from p2u.stores.backoff import Retry
    from p2u.version import __version__

__all__ = [
    "BusyError",
    "Cancelled",
    "ConflictError",
    "CoreError",
    "DiskError",
    "FormatError",
    "IntegrityError",
    "LimitError",
    "NotFoundError",
    "P2UError",
    "Replica",
    "Retry",
    "StoreError",
    "TransferOptions",
    "UnsupportedError",
    "UsageError",
    "WorkerError",
    "__version__",
    "clean",
    "gc",
    "load",
    "mirror",
    "onnx",
    "open",
    "pack",
    "plan",
    "publish",
    "pull",
    "push",
    "sync",
    "torch",
    "torrent",
    "verify",
    "vllm",
    "watch",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "__version__": ("p2u.version", "__version__"),
        "Replica": ("p2u.client.live.replica", "Replica"),
        "Retry": ("p2u.stores.backoff", "Retry"),
        "TransferOptions": ("p2u.client.transfer.options", "TransferOptions"),
        "clean": ("p2u.client.folder.clean", "clean"),
        "gc": ("p2u.packing.api", "gc"),
        "load": ("p2u.client.live.opening", "load"),
        "mirror": ("p2u.replication.mirror", "mirror"),
        "onnx": ("p2u.adapters.onnx", None),
        "open": ("p2u.client.live.opening", "open_replica"),
        "pack": ("p2u.packing.api", "pack"),
        "plan": ("p2u.client.routes.fetch_plan", "plan"),
        "publish": ("p2u.packing.api", "publish"),
        "pull": ("p2u.client.folder.pull", "pull"),
        "push": ("p2u.replication.mirror", "push"),
        "sync": ("p2u.adapters.sync", None),
        "torch": ("p2u.adapters.torch", None),
        "torrent": ("p2u.replication.torrent", "torrent"),
        "verify": ("p2u.client.folder.verify", "verify"),
        "vllm": ("p2u.adapters.vllm", None),
        "watch": ("p2u.client.folder.watch", "watch"),
    },
)
