"""Weights from a trainer to those who use them, as ``p2u.sync``; torch is imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import make_lazy

if TYPE_CHECKING:
    from p2u.runtime.sync.publisher import Published, Publisher
    from p2u.runtime.sync.subscriber import Subscriber

__all__ = ["Published", "Publisher", "Subscriber"]

make_lazy(
    __name__,
    {
        "Published": ("p2u.runtime.sync.publisher", "Published"),
        "Publisher": ("p2u.runtime.sync.publisher", "Publisher"),
        "Subscriber": ("p2u.runtime.sync.subscriber", "Subscriber"),
    },
)
