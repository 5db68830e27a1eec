"""ResNet18 (He et al. 2015) with projections as shortcuts; names as in torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn


def basic(inside: int, outside: int, stride: int) -> nn.Module:
    """Two convolutions and a shortcut, projected where the shape changes."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812 - its usual name

    projection: dict[str, Any] = {}
    if stride > 1 or inside != outside:
        projection["downsample"] = nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
        )

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x)))))
        return F.relu(y + (m.downsample(x) if projection else x))

    return wired(
        forward,
        conv1=nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
        bn1=nn.BatchNorm2d(outside),
        conv2=nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        bn2=nn.BatchNorm2d(outside),
        **projection,
    )


def resnet18(classes: int) -> nn.Module:
    """With ImageNet's stem: a 7 x 7 convolution and a maximum, each with stride 2."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    stages = {}
    inside = 64
    for number, width in enumerate((64, 128, 256, 512), 1):
        stages[f"layer{number}"] = nn.Sequential(
            basic(inside, width, 1 if number == 1 else 2), basic(width, width, 1)
        )
        inside = width

    def forward(m: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(m.bn1(m.conv1(x))), 3, 2, 1)
        x = m.layer4(m.layer3(m.layer2(m.layer1(x))))
        return m.fc(x.mean((2, 3)))

    return wired(
        forward,
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(64),
        **stages,
        fc=nn.Linear(512, classes),
    )
