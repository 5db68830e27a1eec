"""MobileNet-v2 (Sandler et al. 2018), width 1; names as in torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Growth, channels, blocks, stride.
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def unit(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch normalisation, ReLU6."""
    from torch import nn

    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU6())


def block(inside: int, outside: int, stride: int, grow: int) -> nn.Module:
    """Inverted residual with a linear end."""
    from torch import nn

    wide = inside * grow
    layers = [unit(inside, wide, 1)] if grow > 1 else []
    layers += [
        unit(wide, wide, 3, stride, wide),
        nn.Conv2d(wide, outside, 1, bias=False),
        nn.BatchNorm2d(outside),
    ]

    def forward(m: Any, x: Tensor) -> Tensor:
        return x + m.conv(x) if stride == 1 and inside == outside else m.conv(x)

    return wired(forward, conv=nn.Sequential(*layers))


def mobilenet_v2(classes: int) -> nn.Module:
    """With ImageNet's strides: 32 in all."""
    from torch import nn

    features = [unit(3, 32, 3, 2)]
    inside = 32
    for grow, width, count, stride in STAGES:
        for n in range(count):
            features.append(block(inside, width, 1 if n else stride, grow))
            inside = width
    features.append(unit(inside, 1280, 1))

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.classifier(m.features(x).mean((2, 3)))

    return wired(
        forward,
        features=nn.Sequential(*features),
        classifier=nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes)),
    )
