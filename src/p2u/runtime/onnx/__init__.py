"""ONNX Runtime, as ``p2u.onnx``. Needs the extra ``p2u-models[onnx]``; imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import make_lazy

if TYPE_CHECKING:
    from p2u.runtime.onnx.session import Session, session

__all__ = ["Session", "session"]

make_lazy(
    __name__,
    {
        "Session": ("p2u.runtime.onnx.session", "Session"),
        "session": ("p2u.runtime.onnx.session", "session"),
    },
)
