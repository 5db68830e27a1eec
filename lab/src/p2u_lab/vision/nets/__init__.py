"""The image classifiers of the evaluation, by name.

Definitions of our own with the parameter names of the usual libraries, so that weights of those
fit and nothing but torch is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2u_lab.vision.nets.cifar_resnet import cifar_resnet
from p2u_lab.vision.nets.efficientnet import efficientnet_b4
from p2u_lab.vision.nets.efficientnet_lite import efficientnet_lite0
from p2u_lab.vision.nets.mobilenet import mobilenet_v2
from p2u_lab.vision.nets.resnet import resnet18
from p2u_lab.vision.nets.vgg import vgg16
from p2u_lab.vision.nets.vit import vit

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Net:
    """An architecture.

    Attributes:
        build: Makes it, with random weights, for a number of classes and a size of the inputs.
        size: Height and width of its inputs if the images are small ones, in pixels.
    """

    build: Callable[[int, int], nn.Module]
    size: int


NETS: dict[str, Net] = {
    "resnet20": Net(lambda classes, _: cifar_resnet(20, classes), 32),
    "resnet56": Net(lambda classes, _: cifar_resnet(56, classes), 32),
    "effnet-lite0": Net(lambda classes, _: efficientnet_lite0(classes), 128),
    "mobilenet-v2": Net(lambda classes, _: mobilenet_v2(classes), 64),
    "resnet18": Net(lambda classes, _: resnet18(classes), 64),
    "effnet-b4": Net(lambda classes, _: efficientnet_b4(classes), 32),
    "vgg16": Net(vgg16, 32),
    "vit": Net(vit, 32),
}
