"""A network for clients in processes of their own; its folder is made by `make`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WIDTH, CLASSES = 512, 8


def build(options: dict[str, Any]) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(WIDTH, options["hidden"]), nn.ReLU(), nn.Linear(options["hidden"], CLASSES)
    )


def make(folder: Path, items: Path, hidden: int = 256, count: int = 40) -> dict[str, Any]:
    """A model, and items whose labels are its own answers; returns options for `users.Torch`."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    module = build({"hidden": hidden})
    folder.mkdir()
    save_file(dict(module.state_dict()), str(folder / "model.safetensors"))
    x = torch.randn(count, WIDTH)
    with torch.no_grad():
        label = module(x).argmax(1)
    np.savez(items, x=x.numpy(), label=label.numpy())
    return {
        "build": "tiny_net:build",
        "build_options": {"hidden": hidden},
        "items": str(items),
        "output": "logits",
        "threads": 1,
    }
