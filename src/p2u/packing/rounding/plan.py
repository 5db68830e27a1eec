"""Decide which tensors get other base codes than each weight's nearest bin."""

from __future__ import annotations

import math
import warnings

from p2u.errors import UsageError
from p2u.names.prefixes import find_renaming
from p2u.package.layout import Layout, Tensor
from p2u.packing.rounding.calibration import Calibration, FactorEntry


class CalibrationPlan:
    """A calibration file, matched with a model.

    Args:
        path: The file.
        thrift: See `feedback.fed_back`.
        layout: The model's tensors.

    Attributes:
        entries: By the number of the tensor.

    Raises:
        DiskError, FormatError: The file cannot be read, or is none.
        UsageError: It is for another model.
    """

    def __init__(self, path: str, thrift: float, layout: Layout) -> None:
        self.calibration = Calibration(path)
        self.thrift = thrift
        self.entries = match(self.calibration, layout)


def window(t: Tensor) -> int:
    """Weights of a filter that see neighbouring places; 0 if no codes are to be balanced."""
    channel = math.prod(t.shape[1:])
    if len(t.shape) < 3 or not t.length or t.cols % channel:
        return 0  # no convolution, or cut into several rows
    return math.prod(t.shape[2:])


def has_codes(number: int, t: Tensor, plan: CalibrationPlan | None) -> bool:
    """Whether a progressive tensor's codes are chosen: by a calibration, or to be balanced."""
    return bool(window(t)) or (plan is not None and number in plan.entries)


def match(calibration: Calibration, layout: Layout) -> dict[int, FactorEntry]:
    """Match the tensors of a calibration with those of a model.

    Names may differ by a prefix, as those of a bare model and of a model with a head do.

    Raises:
        UsageError: None is in the model, or a shape does not fit.
    """
    numbers: dict[str, list[int]] = {}
    for number, t in enumerate(layout.tensors):
        numbers.setdefault(t.name, []).append(number)
    rename = find_renaming([n for e in calibration.entries for n in e.names], numbers)
    out: dict[int, FactorEntry] = {}
    foreign = []
    for entry in calibration.entries:
        found = [i for name in entry.names for i in numbers.get(rename(name), ())]
        for number in found:
            _check_shape(calibration, entry, layout.tensors[number])
            out[number] = entry
        if not found:
            foreign.append(entry.names[0])
    if not out:
        raise UsageError(
            f"the model has none of its tensors, such as {foreign[0][:200]!r}",
            file=calibration.path,
            hint="Calibrate the model that is packed",
        )
    if foreign:
        warnings.warn(
            f"{calibration.path}: {len(foreign)} of its tensors are not in the model, such as "
            f"{foreign[0][:200]!r}; they are ignored",
            stacklevel=2,
        )
    return out


def _check_shape(calibration: Calibration, entry: FactorEntry, t: Tensor) -> None:
    groups, d = calibration.shape(entry.input)
    if entry.axis == 0:
        fits = len(t.shape) == 2 and t.shape[0] == d and groups == 1
    else:
        fits = len(t.shape) >= 2 and math.prod(t.shape[1:]) == d and t.shape[0] % groups == 0
    if not fits:
        raise UsageError(
            f"calibrated with {groups} x {d} columns, but the model's shape is {list(t.shape)}",
            file=calibration.path,
            tensor=t.name,
            hint="Calibrate the model that is packed",
        )
