"""EfficientNet-b4 (Tan and Le 2019); names as in torchvision, without its stochastic depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Growth, kernel, stride, channels, blocks: those of b0, 1.4 times as wide and 1.8 times as deep.
STAGES = (
    (1, 3, 1, 24, 2), (6, 3, 2, 32, 4), (6, 5, 2, 56, 4), (6, 3, 2, 112, 6),
    (6, 5, 1, 160, 6), (6, 5, 2, 272, 8), (6, 3, 1, 448, 2),
)  # fmt: skip


def unit(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch normalisation, SiLU."""
    from torch import nn

    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.SiLU())


def squeeze(wide: int, narrow: int) -> nn.Module:
    """Squeeze and excitation: each channel times a number that depends on all their means."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812 - its usual name

    def forward(m: Any, x: Tensor) -> Tensor:
        return x * m.fc2(F.silu(m.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()

    return wired(forward, fc1=nn.Conv2d(wide, narrow, 1), fc2=nn.Conv2d(narrow, wide, 1))


def block(inside: int, outside: int, kernel: int, stride: int, grow: int) -> nn.Module:
    """Inverted residual with squeeze and excitation, and a linear end."""
    from torch import nn

    wide = inside * grow
    layers = [unit(inside, wide, 1)] if grow > 1 else []
    layers += [
        unit(wide, wide, kernel, stride, wide),
        squeeze(wide, max(1, inside // 4)),
        nn.Sequential(nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside)),
    ]

    def forward(m: Any, x: Tensor) -> Tensor:
        return x + m.block(x) if stride == 1 and inside == outside else m.block(x)

    return wired(forward, block=nn.Sequential(*layers))


def efficientnet_b4(classes: int) -> nn.Module:
    """With ImageNet's strides: 32 in all."""
    from torch import nn

    features = [unit(3, 48, 3, 2)]
    inside = 48
    for grow, kernel, stride, width, count in STAGES:
        blocks = []
        for n in range(count):
            blocks.append(block(inside, width, kernel, 1 if n else stride, grow))
            inside = width
        features.append(nn.Sequential(*blocks))
    features.append(unit(inside, 1792, 1))

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.classifier(m.features(x).mean((2, 3)))

    return wired(
        forward,
        features=nn.Sequential(*features),
        classifier=nn.Sequential(nn.Dropout(0.4), nn.Linear(1792, classes)),
    )
