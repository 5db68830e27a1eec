"""Real transfers over shaped links, and what a client does with them.

`prepare` makes what a server offers, `transfer` lets real clients fetch it over a `LinkSpec`.
`stream` says what becomes of requests meanwhile (`stream_live`: of real ones), `serving` how fast
and how large a model is while it refines and after; `items` makes labelled items for these.
Namespaces need Linux and root: see
`link.check_support`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import lazy_names

if TYPE_CHECKING:
    from p2u_lab.network.link import check_support
    from p2u_lab.network.load_test import ServingResult, serving
    from p2u_lab.network.offer import METHODS, Offer, prepare
    from p2u_lab.network.spec import LinkSpec
    from p2u_lab.network.streams import StreamResult, stream, stream_live
    from p2u_lab.network.transfers import StateTime, TransferResult, transfer

__all__ = [
    "METHODS",
    "LinkSpec",
    "Offer",
    "ServingResult",
    "StateTime",
    "StreamResult",
    "TransferResult",
    "check_support",
    "prepare",
    "serving",
    "stream",
    "stream_live",
    "transfer",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "METHODS": ("p2u_lab.network.offer", "METHODS"),
        "LinkSpec": ("p2u_lab.network.spec", "LinkSpec"),
        "Offer": ("p2u_lab.network.offer", "Offer"),
        "ServingResult": ("p2u_lab.network.load_test", "ServingResult"),
        "StateTime": ("p2u_lab.network.transfers", "StateTime"),
        "StreamResult": ("p2u_lab.network.streams", "StreamResult"),
        "TransferResult": ("p2u_lab.network.transfers", "TransferResult"),
        "check_support": ("p2u_lab.network.link", "check_support"),
        "prepare": ("p2u_lab.network.offer", "prepare"),
        "serving": ("p2u_lab.network.load_test", "serving"),
        "stream": ("p2u_lab.network.streams", "stream"),
        "stream_live": ("p2u_lab.network.streams", "stream_live"),
        "transfer": ("p2u_lab.network.transfers", "transfer"),
    },
)
