"""What is asked of a run: by name, or in single."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

#: Bits per weight that all methods with a choice are asked for.
BITS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
#: Mbit/s.
BANDWIDTH = (1.0, 5.0, 20.0, 100.0)
#: Milliseconds.
RTT = (20.0, 100.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure; nothing named means all.

    Attributes:
        models: Names.
        tasks: Names.
        methods: Names.
        bits: For the methods that have a choice.
        bandwidth: Mbit/s, of the plots of accuracy against time.
        rtt: Milliseconds.
        limit: Most items of each task; None: all.
        seed: Of the bootstrap.
        transfers: Measure real transfers over shaped links, too.
        suite: Its name, if it is one.
    """

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    bits: tuple[float, ...] = BITS
    bandwidth: tuple[float, ...] = BANDWIDTH
    rtt: tuple[float, ...] = RTT
    limit: int | None = None
    seed: int = 0
    transfers: bool = False
    suite: str = ""

    def as_json(self) -> dict[str, Any]:
        """For ``run.json``."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


#: Architectures that the paper compares, and a ViT; trained here.
_NETS = ("mobilenet-v2", "resnet18", "effnet-b4", "vgg16", "vit")
#: Models of the suite ``paper``. Three seeds where training takes minutes; the data sets that
#: are not free to pass on are left out unless they are there.
_PAPER = (
    *("resnet20-fp32", "resnet56-fp32", "resnet56-bf16"),
    *("minilm-fp32", "minilm-bf16", "mpnet-fp32", "whisper-base-fp16"),
    *("effnet-lite0-fp32", "ppocr-v4-rec", "magika"),
    *(f"{net}-pneumonia{seed}" for net in _NETS for seed in ("", "-s1", "-s2")),
    *(f"{net}-{data}" for data in ("cifar10", "fashion") for net in _NETS),
    *(f"{net}-{data}" for data in ("cifar100", "chest-xray", "voc2007") for net in _NETS),
)

SUITES: dict[str, tuple[str, Request]] = {
    "smoke": (
        "ResNet-20 on 1,000 CIFAR-10 images, few methods: minutes on two cores",
        Request(
            models=("resnet20-fp32",),
            tasks=("cifar10",),
            methods=("p2u", "minmax-tensor", "group128", "bf16", "plain"),
            bits=(3.0, 4.0),
            bandwidth=(1.0, 5.0),
            rtt=(20.0,),
            limit=1000,
            suite="smoke",
        ),
    ),
    "paper": (
        "all models, tasks, methods and lines: hours; what is missing is left out and said",
        Request(models=_PAPER, transfers=True, suite="paper"),
    ),
}
