"""VGG16 (Simonyan and Zisserman 2014, configuration D); names as in torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u_lab.vision.nets.wiring import wired

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Channels; 0 is a maximum over 2 x 2.
LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16(classes: int, size: int = 32) -> nn.Module:
    """Without batch normalisation.

    The first linear layer reads the last maps as they are, ``size / 32`` pixels square: at 224
    this is the original network of 138 M parameters (1000 classes), at 32 it has 33.6 M.
    """
    from torch import nn

    features: list[nn.Module] = []
    inside = 3
    for width in LAYERS:
        if width:
            features += [nn.Conv2d(inside, width, 3, 1, 1), nn.ReLU()]
            inside = width
        else:
            features.append(nn.MaxPool2d(2))

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.classifier(m.features(x).flatten(1))

    return wired(
        forward,
        features=nn.Sequential(*features),
        classifier=nn.Sequential(
            nn.Linear(512 * (size // 32) ** 2, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        ),
    )
