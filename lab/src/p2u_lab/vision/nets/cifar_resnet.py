"""ResNets for 32 x 32 images with parameter-free shortcuts (He et al. 2015, option A)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn


def basic(inside: int, outside: int, stride: int) -> nn.Module:
    """Two convolutions; the shortcut skips pixels and pads channels with zeros."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812 - its usual name

    pad = (outside - inside) // 2

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x)))))
        if pad:
            x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, pad, pad))
        return F.relu(x + y)

    return wired(
        forward,
        conv1=nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
        bn1=nn.BatchNorm2d(outside),
        conv2=nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        bn2=nn.BatchNorm2d(outside),
    )


def cifar_resnet(layers: int, classes: int = 10) -> nn.Module:
    """A ResNet of ``6 n + 2`` layers; names as in ``akamaster/pytorch_resnet_cifar10``."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    stages = {}
    inside = 16
    for stage, width in enumerate((16, 32, 64)):
        blocks = []
        for n in range((layers - 2) // 6):
            blocks.append(basic(inside, width, 2 if stage and not n else 1))
            inside = width
        stages[f"layer{stage + 1}"] = nn.Sequential(*blocks)

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.layer3(m.layer2(m.layer1(F.relu(m.bn1(m.conv1(x))))))
        return m.linear(x.mean((2, 3)))

    return wired(
        forward,
        conv1=nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        bn1=nn.BatchNorm2d(16),
        **stages,
        linear=nn.Linear(64, classes),
    )
