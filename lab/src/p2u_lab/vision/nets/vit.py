"""A small vision transformer (Dosovitskiy et al. 2020); names as in timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn


def attention(width: int, heads: int) -> nn.Module:
    """Each token looks at all of them."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812 - its usual name

    def forward(m: Any, x: Tensor) -> Tensor:
        # (batch, tokens, 3 * width) -> 3 of (batch, heads, tokens, width / heads)
        q, k, v = m.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return wired(forward, qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))


def block(width: int, heads: int) -> nn.Module:
    """Attention and two linear layers, each normalised before and added after."""
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    def mlp_forward(m: Any, x: Tensor) -> Tensor:
        return m.fc2(F.gelu(m.fc1(x)))

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x + m.attn(m.norm1(x))
        return x + m.mlp(m.norm2(x))

    mlp = wired(mlp_forward, fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))
    return wired(
        forward,
        norm1=nn.LayerNorm(width, 1e-6),
        attn=attention(width, heads),
        norm2=nn.LayerNorm(width, 1e-6),
        mlp=mlp,
    )


def vit(
    classes: int, size: int = 32, patch: int = 4, width: int = 128, depth: int = 6, heads: int = 4
) -> nn.Module:
    """Patches of ``patch`` x ``patch`` pixels and a class token, whose end is the answer.

    1.2 M parameters as it stands.
    """
    import torch
    from torch import nn

    def embed(m: Any, x: Tensor) -> Tensor:
        return m.proj(x).flatten(2).transpose(1, 2)

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patch_embed(x)
        x = torch.cat([m.cls_token.expand(len(x), -1, -1), x], 1) + m.pos_embed
        return m.head(m.norm(m.blocks(x))[:, 0])

    tokens = (size // patch) ** 2 + 1
    return wired(
        forward,
        cls_token=nn.Parameter(torch.randn(1, 1, width) * 0.02),
        pos_embed=nn.Parameter(torch.randn(1, tokens, width) * 0.02),
        patch_embed=wired(embed, proj=nn.Conv2d(3, width, patch, patch)),
        blocks=nn.Sequential(*(block(width, heads) for _ in range(depth))),
        norm=nn.LayerNorm(width, 1e-6),
        head=nn.Linear(width, classes),
    )
