"""Modules out of parts and a function, so that torch is imported when one is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@cache
def _wired_class() -> Any:
    from torch import nn

    class Wired(nn.Module):  # type: ignore[misc]
        """Its forward pass is a function of itself and the input."""

        def __init__(self, forward: Callable[[Any, Tensor], Tensor], parts: dict[str, Any]) -> None:
            super().__init__()
            self._wiring = forward
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x: Tensor) -> Tensor:
            return self._wiring(self, x)

    return Wired


def wired(forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> nn.Module:
    """A module with the given submodules and parameters.

    Args:
        forward: ``forward(module, x)`` gives the output; the parts are attributes of the module.
        parts: Modules and parameters, in the order of the state dict.
    """
    module: nn.Module = _wired_class()(forward, parts)
    return module
