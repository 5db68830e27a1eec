"""The adapter of PyTorch, ``p2u.torch``; needs the extra ``p2u-models[torch]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u.adapters.extras import adapter_names

if TYPE_CHECKING:
    from p2u.adapters.torch.damage import sensitivity
    from p2u.adapters.torch.loading import load, replica
    from p2u.adapters.torch.moments import calibrate
    from p2u.adapters.torch.pretrained import from_pretrained

__all__ = ["calibrate", "from_pretrained", "load", "replica", "sensitivity"]

__getattr__, __dir__ = adapter_names(
    __name__,
    {
        "calibrate": ("p2u.adapters.torch.moments", "calibrate"),
        "from_pretrained": ("p2u.adapters.torch.pretrained", "from_pretrained"),
        "load": ("p2u.adapters.torch.loading", "load"),
        "replica": ("p2u.adapters.torch.loading", "replica"),
        "sensitivity": ("p2u.adapters.torch.damage", "sensitivity"),
    },
    library="torch",
    extra="torch",
)
