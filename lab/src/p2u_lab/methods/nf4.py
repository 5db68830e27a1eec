"""NF4: 4-bit codes for normally distributed weights.

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (2023), and bitsandbytes,
whose table, rounding and storage these are: blocks of 64 weights in the order of the file, one
absolute maximum each, "double quantised" to 8 bits in blocks of 256 about their mean.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from p2u_lab.methods.packing import Codes
from p2u_lab.methods.quantisers import Quantiser, Weights

BLOCK, NESTED = 64, 256

#: The 16 values, as bitsandbytes has them.
TABLE = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)


def dynamic_table() -> npt.NDArray[np.float32]:
    """The 256 values of an 8-bit "dynamic" float: sign, unary exponent (base 10), linear fraction.

    Source: Dettmers, "8-Bit Approximations for Parallelism in Deep Learning" (2016); as
    ``create_dynamic_map`` of bitsandbytes makes it.
    """
    values: list[float] = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2**exponent + 1, dtype=np.float32)
        means = (edges[:-1] + edges[1:]) / 2
        scale = 10.0 ** (exponent - 6)
        values += [float(sign * scale * m) for m in means for sign in (1, -1)]
    return np.sort(np.array(values, np.float32))


class NF4(Quantiser):
    """NF4 with double quantisation: 4 bits per weight, 8 per 64 and 32 per 16384, 32 in all."""

    name = "nf4"
    widths = (4,)
    _OFFSET = struct.Struct("<f")

    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """See `Quantiser.encode`."""
        blocks = _cut(weights.reshape(-1), BLOCK)
        scale = np.abs(blocks).max(axis=1)
        offset = np.float32(scale.mean())
        nested = _cut(scale - offset, NESTED)
        largest = np.abs(nested).max(axis=1)
        unit = nested / np.where(largest > 0, largest, 1)[:, None]
        eighths = _nearest(unit, dynamic_table()).reshape(-1)[: scale.size]
        sides = self._OFFSET.pack(offset) + largest.astype("<f4").tobytes()
        # bitsandbytes rounds weights by the maximum itself, before that is rounded.
        unit = blocks / np.where(scale > 0, scale, 1)[:, None]
        codes = _nearest(unit, TABLE).reshape(-1)[: weights.size]
        return codes.astype(np.uint16), sides + eighths.astype(np.uint8).tobytes()

    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """See `Quantiser.decode`."""
        (offset,) = self._OFFSET.unpack_from(scales)
        count = -(-codes.size // BLOCK)
        groups = -(-count // NESTED)
        largest = np.frombuffer(scales, "<f4", groups, self._OFFSET.size)
        eighths = np.frombuffer(scales, np.uint8, count, self._OFFSET.size + 4 * groups)
        scale = dynamic_table()[eighths] * np.repeat(largest, NESTED)[:count] + np.float32(offset)
        out: Weights = (TABLE[codes] * np.repeat(scale, BLOCK)[: codes.size]).reshape(shape)
        return out


def _cut(values: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Blocks, shape (blocks, size); the last one is filled up with zeros."""
    return np.pad(values, (0, -values.size % size)).reshape(-1, size)


def _nearest(values: npt.NDArray[Any], table: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """The number of the nearest entry of a sorted table."""
    edges = (table[1:].astype(np.float64) + table[:-1]) / 2
    return np.searchsorted(edges, values)
