"""PyTorch, as ``p2u.torch``. Needs the extra ``p2u-models[torch]``; torch is imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u._lazy import make_lazy

if TYPE_CHECKING:
    from p2u.runtime.torch.calibrate import calibrate
    from p2u.runtime.torch.load import load, replica
    from p2u.runtime.torch.pretrained import from_pretrained
    from p2u.runtime.torch.sensitivity import sensitivity

__all__ = ["calibrate", "from_pretrained", "load", "replica", "sensitivity"]

make_lazy(
    __name__,
    {
        "calibrate": ("p2u.runtime.torch.calibrate", "calibrate"),
        "from_pretrained": ("p2u.runtime.torch.pretrained", "from_pretrained"),
        "load": ("p2u.runtime.torch.load", "load"),
        "replica": ("p2u.runtime.torch.load", "replica"),
        "sensitivity": ("p2u.runtime.torch.sensitivity", "sensitivity"),
    },
)
