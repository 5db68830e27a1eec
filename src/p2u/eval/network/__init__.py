"""Real transfers over shaped links, and what a client does with them.

`prepare` makes what a server offers, `transfer` lets real clients fetch it over a `LinkSpec`.
Namespaces need Linux and root: see
`link.check_support`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import make_lazy

if TYPE_CHECKING:
    from p2u.eval.network.link import check_support
    from p2u.eval.network.offer import METHODS, Offer, prepare
    from p2u.eval.network.spec import LinkSpec
    from p2u.eval.network.transfer import StateTime, TransferResult, transfer

__all__ = [
    "METHODS",
    "LinkSpec",
    "Offer",
    "StateTime",
    "TransferResult",
    "check_support",
    "prepare",
    "transfer",
]

make_lazy(
    __name__,
    {
        "METHODS": ("p2u.eval.network.offer", "METHODS"),
        "LinkSpec": ("p2u.eval.network.spec", "LinkSpec"),
        "Offer": ("p2u.eval.network.offer", "Offer"),
        "StateTime": ("p2u.eval.network.transfer", "StateTime"),
        "TransferResult": ("p2u.eval.network.transfer", "TransferResult"),
        "check_support": ("p2u.eval.network.link", "check_support"),
        "prepare": ("p2u.eval.network.offer", "prepare"),
        "transfer": ("p2u.eval.network.transfer", "transfer"),
    },
)
