"""What the encoder decides: which tensors get levels, what a row is, which levels there are.

How coarse each tensor's base is says `p2u.allocation`. Nothing here binds a reader: another recipe
changes bytes, never the format. All decisions compare integers, so that every machine comes to the
same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from p2u.errors import UsageError
from p2u.types import ITEMSIZE, PROGRESSIVE

#: Halvings of the base step at each level; 0 is exact.
HALVINGS = {"8bit": 4, "exact": 0}
BASE, EXACT = "base", "exact"

#: Bits per weight that can be asked of the base.
BITS = (1.0, 6.0)

#: Tensors with fewer elements are not worth a level.
MIN_ELEMENTS = 64
#: Shortest and longest row, in elements; channels are joined or cut to come here.
MIN_COLS = 8
MAX_COLS = 1 << 18
CUT_COLS = 1 << 16
#: Elements per row where rows have no meaning but to be cut at.
FLAT_COLS = 1 << 12


class Treatment(Enum):
    """How a tensor is coded."""

    PROGRESSIVE = "progressive"
    #: A float tensor that is exact from the base on.
    FULL = "full"
    #: Any bytes, exact from the base on.
    OPAQUE = "opaque"


def treatment(dtype: str, shape: Sequence[int], elems: int, keep: bool = False) -> Treatment:
    """How to code a tensor: norms and biases are small, and a model is sensitive to them.

    Args:
        dtype: safetensors' name.
        shape: Dimensions.
        elems: Their product.
        keep: It is to be exact from the base on.
    """
    if dtype not in PROGRESSIVE:
        return Treatment.OPAQUE
    if keep or len(shape) < 2 or elems < MIN_ELEMENTS:
        return Treatment.FULL
    return Treatment.PROGRESSIVE


def item_size(dtype: str, shape: Sequence[int], length: int) -> int:
    """Bytes per element, for coding: 1 where elements are not 1 to 16 whole bytes."""
    if dtype in ITEMSIZE:
        return ITEMSIZE[dtype]
    elems = math.prod(shape)
    if elems and length % elems == 0 and 1 <= length // elems <= 16:
        return length // elems
    return 1


def row_length(shape: Sequence[int], elems: int, how: Treatment) -> int:
    """Elements per row: all that share a step."""
    if elems == 0:
        return 1
    if how is not Treatment.PROGRESSIVE:
        return min(elems, FLAT_COLS)
    cols = math.prod(shape[1:])
    if cols < MIN_COLS:
        # Whole channels: what lies in one row should have one scale.
        cols *= -(-MIN_COLS // cols)
    elif cols > MAX_COLS:
        cols = CUT_COLS
    return min(cols, elems)


def check_levels(levels: Sequence[str]) -> tuple[str, ...]:
    """The labels of the states, checked.

    Raises:
        UsageError: They do not run from base to exact, or name an unknown level.
    """
    labels = tuple(levels)
    between = [name for name in HALVINGS if name != EXACT]
    known = [(BASE, *between[:n], EXACT) for n in range(len(between) + 1)]
    if labels not in known:
        raise UsageError(
            f"these levels cannot be made: {','.join(labels)}",
            hint="Possible are " + " and ".join(",".join(k) for k in known),
        )
    return labels


def check_bits(bits: float) -> None:
    """Raise UsageError unless a base can have this many bits per weight."""
    if not BITS[0] <= bits <= BITS[1]:
        raise UsageError(f"{bits:g} bits per weight", hint=f"Choose from {BITS[0]} to {BITS[1]}")
