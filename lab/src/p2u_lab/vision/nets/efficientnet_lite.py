"""EfficientNet-lite0 (Tan and Le 2019; lite: TensorFlow's repository)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Blocks, kernel, stride, growth, channels.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding: the odd pixel at the end."""
    from torch.nn import functional as F  # noqa: N812 - its usual name

    need = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    return F.pad(x, (need // 2, need - need // 2) * 2)


def block(inside: int, outside: int, kernel: int, stride: int, grow: int) -> nn.Module:
    """Inverted residual without squeeze and excitation."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    wide = inside * grow
    first: dict[str, Any] = {}
    if grow > 1:
        first["_expand_conv"] = nn.Conv2d(inside, wide, 1, bias=False)
        first["_bn0"] = nn.BatchNorm2d(wide, 1e-3)

    def forward(m: Any, x: Tensor) -> Tensor:
        y = F.relu6(m._bn0(m._expand_conv(x))) if grow > 1 else x
        y = F.relu6(m._bn1(m._depthwise_conv(same(y, kernel, stride))))
        y = m._bn2(m._project_conv(y))
        return x + y if stride == 1 and inside == outside else y

    return wired(
        forward,
        **first,
        _depthwise_conv=nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False),
        _bn1=nn.BatchNorm2d(wide, 1e-3),
        _project_conv=nn.Conv2d(wide, outside, 1, bias=False),
        _bn2=nn.BatchNorm2d(outside, 1e-3),
    )


def efficientnet_lite0(classes: int = 1000) -> nn.Module:
    """Names as in PyPI's ``efficientnet-lite-pytorch``; inputs are ``(pixels - 127) / 128``."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    blocks = []
    inside = 32
    for count, kernel, stride, grow, width in STAGES:
        for n in range(count):
            blocks.append(block(inside, width, kernel, 1 if n else stride, grow))
            inside = width

    def forward(m: Any, x: Tensor) -> Tensor:
        x = F.relu6(m._bn0(m._conv_stem(same(x, 3, 2))))
        for part in m._blocks:
            x = part(x)
        x = F.relu6(m._bn1(m._conv_head(x)))
        return m._fc(x.mean((2, 3)))

    return wired(
        forward,
        _conv_stem=nn.Conv2d(3, 32, 3, 2, bias=False),
        _bn0=nn.BatchNorm2d(32, 1e-3),
        _blocks=nn.ModuleList(blocks),
        _conv_head=nn.Conv2d(inside, 1280, 1, bias=False),
        _bn1=nn.BatchNorm2d(1280, 1e-3),
        _fc=nn.Linear(1280, classes),
    )
