"""ONNX Runtime, as ``p2u.onnx``. Needs the extra ``p2u-models[onnx]``; imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import lazy_names

if TYPE_CHECKING:
    from p2u.adapters.onnx.live_session import Session, session

__all__ = ["Session", "session"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Session": ("p2u.adapters.onnx.live_session", "Session"),
        "session": ("p2u.adapters.onnx.live_session", "session"),
    },
)
