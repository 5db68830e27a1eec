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


SUITES: dict[str, tuple[str, Request]] = {
    "smoke": (
        "ResNet-20 on 1,000 CIFAR-10 images, few methods: minutes on two cores",
        Request(
            models=("resnet20",),
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
        "all models that are given or were trained, all methods and lines: hours",
        Request(transfers=True, suite="paper"),
    ),
}
