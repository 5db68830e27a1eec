"""Real transfers over shaped links, and what a client does with them.

`prepare` makes what a server offers, `transfer` lets real clients fetch it over a `LinkSpec`.
`stream` says what becomes of requests meanwhile (`stream_live`: of real ones), `serving` how fast
and how large a model is while it refines and after; `items` makes labelled items for these.
Namespaces need Linux and root: see
`link.check_support`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import make_lazy

if TYPE_CHECKING:
    from p2u.eval.network.link import check_support
    from p2u.eval.network.offer import METHODS, Offer, prepare
    from p2u.eval.network.serving import ServingResult, serving
    from p2u.eval.network.spec import LinkSpec
    from p2u.eval.network.stream import StreamResult, stream, stream_live
    from p2u.eval.network.transfer import StateTime, TransferResult, transfer

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

make_lazy(
    __name__,
    {
        "METHODS": ("p2u.eval.network.offer", "METHODS"),
        "LinkSpec": ("p2u.eval.network.spec", "LinkSpec"),
        "Offer": ("p2u.eval.network.offer", "Offer"),
        "ServingResult": ("p2u.eval.network.serving", "ServingResult"),
        "StateTime": ("p2u.eval.network.transfer", "StateTime"),
        "StreamResult": ("p2u.eval.network.stream", "StreamResult"),
        "TransferResult": ("p2u.eval.network.transfer", "TransferResult"),
        "check_support": ("p2u.eval.network.link", "check_support"),
        "prepare": ("p2u.eval.network.offer", "prepare"),
        "serving": ("p2u.eval.network.serving", "serving"),
        "stream": ("p2u.eval.network.stream", "stream"),
        "stream_live": ("p2u.eval.network.stream", "stream_live"),
        "transfer": ("p2u.eval.network.transfer", "transfer"),
    },
)
