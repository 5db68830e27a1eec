"""PyTorch, as ``p2u.torch``. Needs the extra ``p2u-models[torch]``; torch is imported on use."""

from __future__ import annotations

from p2u._lazy import make_lazy

__all__: list[str] = []

make_lazy(__name__, {})
