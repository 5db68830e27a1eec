"""The adapter of ONNX Runtime, ``p2u.onnx``; needs the extra ``p2u-models[onnx]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u.adapters.extras import adapter_names

if TYPE_CHECKING:
    from p2u.adapters.onnx.live_session import Session, session

__all__ = ["Session", "session"]

__getattr__, __dir__ = adapter_names(
    __name__,
    {
        "Session": ("p2u.adapters.onnx.live_session", "Session"),
        "session": ("p2u.adapters.onnx.live_session", "session"),
    },
    library="onnxruntime",
    extra="onnx",
)
