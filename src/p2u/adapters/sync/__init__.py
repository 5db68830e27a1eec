"""Carry a trainer's weights to those that serve them, as ``p2u.sync``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u.adapters.extras import adapter_names

if TYPE_CHECKING:
    from p2u.adapters.sync.publisher import Published, Publisher
    from p2u.adapters.sync.subscriber import Subscriber

__all__ = ["Published", "Publisher", "Subscriber"]

__getattr__, __dir__ = adapter_names(
    __name__,
    {
        "Published": ("p2u.adapters.sync.publisher", "Published"),
        "Publisher": ("p2u.adapters.sync.publisher", "Publisher"),
        "Subscriber": ("p2u.adapters.sync.subscriber", "Subscriber"),
    },
    library="torch",
    extra="torch",
)
