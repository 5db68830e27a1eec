"""Read measured damage: how much an error in each tensor costs a model's answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from p2u.errors import FormatError
from p2u.package.strict_json import parse_object
from p2u.packing.allocation.shares import log2_64

SENSITIVITY = "p2u-sensitivity"


def parse_damage(data: bytes, file: str) -> dict[str, int]:
    """The numbers of a sensitivity file, as `Recipe.damage` has them.

    Raises:
        FormatError: It is none.
    """
    hint = "Write it with p2u.torch.sensitivity"
    tree = parse_object(data, file=file, hint=hint)
    if tree.get("format") != SENSITIVITY or tree.get("version") != 1:
        raise FormatError(f"is not a {SENSITIVITY} file of version 1", file=file, hint=hint)
    return quantise(tree.get("tensors"), file)


def quantise(tensors: object, file: str = "sensitivity") -> dict[str, int]:
    """``64 * log2`` of each tensor's damage; tensors that do none count as 2**-30 of the largest.

    Raises:
        FormatError: Not a mapping of names to numbers of which one is positive.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise FormatError("expected an object of tensors and numbers", file=file)
    for name, value in tensors.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(name, str) and number and 0 <= value <= 1e300):
            raise FormatError(
                f"expected a number from 0 on, found {value!r}", file=file, tensor=str(name)
            )
    largest = max(tensors.values())
    if largest < 1e-280:
        raise FormatError("the damage of every tensor is 0", file=file, hint="Use other inputs")
    return {name: log2_64(float(max(v, math.ldexp(largest, -30)))) for name, v in tensors.items()}
