"""P2U itself: real packages, brought to folders by the real client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import p2u
from p2u.errors import UnsupportedError
from p2u.package.paths import MANIFEST_KEY
from p2u_lab.base import Method, Point, Trainable

LEVELS = ("base", "8bit", "exact")
#: Fewest and most bits per weight that `p2u.pack` gives a base.
BITS = (1.0, 6.0)


class Progressive(Method):
    """Base, then updates; one point per state.

    A point's bytes are all that a client fetches to come there from nothing: manifest, layout,
    indices and payloads.

    Args:
        sensitivity: Share out the bits by `p2u.torch.sensitivity`.
        calibration: Round with `p2u.torch.calibrate`, at the default thrift.
        levels: Labels of the states.
    """

    def __init__(
        self,
        *,
        sensitivity: bool = False,
        calibration: bool = False,
        levels: Sequence[str] = LEVELS,
    ) -> None:
        self.name = "p2u" + "+sensitivity" * sensitivity + "+calibration" * calibration
        self._sensitivity = sensitivity
        self._calibration = calibration
        self._levels = tuple(levels)

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        """The states of a package per bits; bits that no base can have are left out."""
        options = self._learned(model, work, trainable)
        for wanted in sorted({b for b in bits if BITS[0] <= b <= BITS[1]}):
            package, folder = work / f"{wanted:g}.p2u", work / f"{self.name}-{wanted:g}"
            made = p2u.pack(model, package, bits=wanted, levels=self._levels, **options)
            manifest = (package / MANIFEST_KEY).stat().st_size
            for state in made.states:
                p2u.pull(package, folder, until=state.label)
                exact = state.label == self._levels[-1]
                assert state.bytes is not None  # it has a base
                size = state.bytes + manifest
                yield Point(self.name, state.label, float(wanted), size, folder, exact)
            shutil.rmtree(package)
            shutil.rmtree(folder)

    def _learned(self, model: Path, work: Path, trainable: Trainable | None) -> dict[str, Any]:
        """What packing is told of the model's use.

        Raises:
            UnsupportedError: There is nothing to learn from.
        """
        if not (self._sensitivity or self._calibration):
            return {}
        if trainable is None:
            raise UnsupportedError(
                "there is no module to measure on, or no data but the test items",
                file=str(model),
                hint=f"{self.name} is for tasks that have both",
            )
        options: dict[str, Any] = {}
        if self._sensitivity:
            output = cast('Literal["logits", "values"]', trainable.output)
            options["sensitivity"] = p2u.torch.sensitivity(
                trainable.module, trainable.batches, output=output
            )
        if self._calibration:
            options["calibration"] = work / "calibration"
            p2u.torch.calibrate(trainable.module, trainable.batches, options["calibration"])
        return options
