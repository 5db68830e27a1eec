"""The requests of a run: by the name of a suite, or one by one."""

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

    def as_json(self) -> dict[str, Any]:
        """For ``run.json``."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Suite:
    """Requests with a name.

    Attributes:
        about: A line.
        parts: Requests by the names of their folders; a part without a name is the suite's folder.
    """

    about: str
    parts: dict[str, Request]


#: What most parts compare: the classic rival, a strong one, the cast, and no method at all.
_FEW = ("p2u", "minmax-tensor", "group128", "bf16", "plain")
_CAST = ("p2u", "minmax-tensor", "bf16", "plain")
_LOW = (3.0, 4.0)


def _part(model: str, task: str, methods: tuple[str, ...] = _FEW, **more: Any) -> Request:
    return Request(tuple(model.split(",")), (task,), methods, **{"bits": _LOW, **more})


#: The parts of ``docs/evaluation.md``, by the names that their results have in ``docs/data``.
_PAPER = {
    "resnet20": _part("resnet20", "cifar10", bits=BITS, limit=2000),
    "resnet56": _part("resnet56", "cifar10", limit=1000),
    "resnet20-rivals": _part(
        "resnet20", "cifar10",
        ("p2u", "p2u+sensitivity", "p2u+calibration", "p2u+sensitivity+calibration",
         "absmax-channel", "minmax-channel", "group32", "nf4", "hqq", "nncodec", "nncodec+dq",
         "zstd", "zipnn", "lmz", "bf16", "plain"),
        limit=2000,
    ),
    "minilm": _part("minilm-fp32", "wordnet"),
    "minilm-calibration": _part(
        "minilm-fp32", "wordnet", ("p2u", "p2u+sensitivity", "p2u+calibration", "plain")
    ),
    "xray-reports": _part("minilm-fp32", "xray-reports", _CAST, limit=300),
    "mpnet": _part("mpnet-fp32", "wordnet-400", _CAST, bits=(4.0,)),
    "ppocr": _part("ppocr-v4-rec", "lines", limit=200),
    "whisper": _part("whisper-base-fp16", "prompts", bits=(4.0, 5.0), limit=24),
    "pneumonia": _part(
        "mobilenet-v2-pneumonia,resnet18-pneumonia,effnet-b4-pneumonia,"
        "vgg16-pneumonia,vit-pneumonia", "pneumonia"
    ),
    "lite0": _part("effnet-lite0", "imagenet-probe", limit=500),
    "lite0-calibration": _part(
        "effnet-lite0", "imagenet-probe", ("p2u+sensitivity", "p2u+calibration", "plain"),
        bits=(4.0,), limit=500,
    ),
    "magika": _part("magika", "files", _CAST, limit=500),
}  # fmt: skip

SUITES = {
    "smoke": Suite(
        "ResNet-20 on 1,000 CIFAR-10 images, few methods: minutes on two cores",
        {"": _part("resnet20", "cifar10", bandwidth=(1.0, 5.0), rtt=(20.0,), limit=1000)},
    ),
    "paper": Suite("every table and plot of docs/evaluation.md: hours", _PAPER),
    "full": Suite(
        "all models that are given or were trained, all methods, bits and lines: days",
        {"": Request(transfers=True)},
    ),
}
