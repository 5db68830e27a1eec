"""The data sets that models are trained for and judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2u.errors import UsageError
from p2u_lab.data.cifar import cifar10, cifar100
from p2u_lab.data.fashion import fashion
from p2u_lab.data.folders import chest_xray
from p2u_lab.data.images import Images
from p2u_lab.data.medmnist import medmnist
from p2u_lab.data.nih import nih_chest
from p2u_lab.data.voc import voc
from p2u_lab.vision import TRAINED


@dataclass(frozen=True, slots=True)
class Set:
    """A data set.

    Attributes:
        load: Its images, for ``"train"`` or ``"test"``.
        classes: How many.
        epochs: How long each architecture is trained if nothing else is said.
        size: Height and width of the inputs; None: what the architecture takes small images in.
        mirrored: Whether an image means the same in a mirror. A chest does not: the heart would
            change sides, which no label says.
        several: An image may have any number of the classes, as in VOC; judged by the mean of
            the classes' average precisions.
        eleven: That is VOC 2007's, with eleven points.
    """

    load: Callable[[str], Images]
    classes: int
    epochs: dict[str, int]
    size: int | None = None
    mirrored: bool = True
    several: bool = False
    eleven: bool = False


def _each(epochs: int) -> dict[str, int]:
    return dict.fromkeys(TRAINED, epochs)


#: A few minutes each on one core.
_PNEUMONIA = {"mobilenet-v2": 6, "resnet18": 5, "effnet-b4": 2, "vgg16": 3, "vit": 3}
_VOC2007 = {"train": "trainval", "test": "test"}
#: 2012's test labels are not public.
_VOC2012 = {"train": "train", "test": "val"}

SETS: dict[str, Set] = {
    "pneumonia": Set(medmnist, 2, _PNEUMONIA, mirrored=False),
    "cifar10": Set(cifar10, 10, _each(10)),
    "cifar100": Set(cifar100, 100, _each(20)),
    "fashion": Set(fashion, 10, _each(5)),
    "chest-xray": Set(chest_xray, 2, _each(10), size=224, mirrored=False),
    "nih-chest": Set(nih_chest, 14, _each(5), size=224, mirrored=False, several=True),
    "voc2007": Set(
        lambda split: voc(2007, _VOC2007[split]), 20, _each(30), size=224, several=True, eleven=True
    ),
    "voc2012": Set(lambda split: voc(2012, _VOC2012[split]), 20, _each(30), size=224, several=True),
}


def find(name: str) -> Set:
    """The set of a name.

    Raises:
        UsageError: There is none.
    """
    if name not in SETS:
        raise UsageError(f"no data set {name!r}", hint=f"use one of {', '.join(SETS)}")
    return SETS[name]
