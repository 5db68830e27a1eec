"""Decide how a tensor is encoded: with levels or exact in the base, and with which rows.

Nothing here binds a reader. All decisions compare integers, so that every machine comes to the
same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from p2u.types import ITEMSIZE, PROGRESSIVE

#: Tensors with fewer elements are not worth a level.
MIN_ELEMENTS = 64


#: Shortest and longest row, in elements; channels are joined or cut to come here.
MIN_COLS = 8


MAX_COLS = 1 << 18


CUT_COLS = 1 << 16


#: Elements per row where rows have no meaning but to be cut at.
FLAT_COLS = 1 << 12


class Treatment(Enum):
    """The ways to code a tensor."""

    PROGRESSIVE = "progressive"
    #: A float tensor that is exact from the base on.
    FULL = "full"
    #: Any bytes, exact from the base on.
    OPAQUE = "opaque"


def treatment(dtype: str, shape: Sequence[int], elems: int, keep: bool = False) -> Treatment:
    """The treatment of a tensor: norms and biases are small, and a model is sensitive to them.

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
