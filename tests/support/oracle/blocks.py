"""What others quantise to, as binary32 (SPEC.md 6.13): element by element as the text has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from oracle.floats import Ints

Singles = npt.NDArray[np.float32]
#: Values and steps of blocks, one row each.
Blocks = tuple[Any, Any]

NAN = 0x7FC00000


def _half(b: Ints, at: int) -> Singles:
    """A number of binary16 in each block, as a column."""
    bits = (b[:, at] + 256 * b[:, at + 1]).astype("<u2")
    return bits.view("<f2").astype(np.float32)[:, None]


def _single(v: Ints) -> Singles:
    return v.astype(np.float32)


def _bits(b: Ints, byte: Ints, bit: Ints, count: int) -> Ints:
    """So many bits of a byte for each element of each block."""
    out: Ints = b[:, byte] >> bit & ((1 << count) - 1)
    return out


I32, I256 = np.arange(32), np.arange(256)


def _small(at: int, high: int | None, less: int) -> Callable[[Ints], Blocks]:
    def read(b: Ints) -> Blocks:
        q = _bits(b, at + I32 % 16, 4 * (I32 // 16), 4)
        if high is not None:
            q = q + 16 * _bits(b, high + I32 // 8, I32 % 8, 1)
        d = _half(b, 0)
        value = d * _single(q - less)
        if less == 0:
            value = value + _half(b, 2)
        return value, np.broadcast_to(d, value.shape)

    return read


def _q8_0(b: Ints) -> Blocks:
    q = b[:, 2:].astype(np.uint8).view(np.int8)
    d = _half(b, 0)
    return d * q.astype(np.float32), np.repeat(d, 32, 1)


def _q2_k(b: Ints) -> Blocks:
    scale = b[:, I256 // 16]
    d = _half(b, 80) * _single(scale % 16)
    q = _bits(b, 16 + I256 // 128 * 32 + I256 % 32, I256 // 32 % 4 * 2, 2)
    return d * _single(q) - _half(b, 82) * _single(scale // 16), d


def _q3_k(b: Ints) -> Blocks:
    k = I256 // 16
    low = _bits(b, 96 + k % 8, k // 8 * 4, 4)
    high = _bits(b, 104 + k % 4, k // 4 * 2, 2)
    d = _half(b, 108) * _single(low + 16 * high - 32)
    q = _bits(b, 32 + I256 // 128 * 32 + I256 % 32, I256 // 32 % 4 * 2, 2)
    q = q - 4 * (1 - _bits(b, I256 % 32, I256 // 32, 1))
    return d * _single(q), d


def _q45_k(codes: int) -> Callable[[Ints], Blocks]:
    def read(b: Ints) -> Blocks:
        k = I256 // 32
        near = np.minimum(k, 3)
        far = np.maximum(k, 4)
        scale = np.where(k < 4, b[:, 4 + near] % 64, b[:, 8 + far] % 16 + b[:, far] // 64 * 16)
        least = np.where(k < 4, b[:, 8 + near] % 64, b[:, 8 + far] // 16 + b[:, 4 + far] // 64 * 16)
        q = _bits(b, codes + I256 // 64 * 32 + I256 % 32, k % 2 * 4, 4)
        if codes == 48:
            q = q + 16 * _bits(b, 16 + I256 % 32, k, 1)
        d = _half(b, 0) * _single(scale)
        return d * _single(q) - _half(b, 2) * _single(least), d

    return read


def _q6_k(b: Ints) -> Blocks:
    low = _bits(b, I256 // 128 * 64 + I256 % 64, I256 // 64 % 2 * 4, 4)
    high = _bits(b, 128 + I256 // 128 * 32 + I256 % 32, I256 // 32 % 4 * 2, 2)
    scale = b[:, 192 + I256 // 16].astype(np.uint8).view(np.int8)
    d = _half(b, 208) * scale.astype(np.float32)
    return d * _single(low + 16 * high - 32), d


def _float8(exponent: int) -> Callable[[Ints], Blocks]:
    mant, bias = 7 - exponent, (1 << (exponent - 1)) - 1

    def read(b: Ints) -> Blocks:
        e, fraction = b >> mant & ((1 << exponent) - 1), b & ((1 << mant) - 1)
        unit = np.ldexp(1.0, np.maximum(e, 1) - bias - mant)
        value = (fraction + np.where(e > 0, 1 << mant, 0)) * unit
        last = b & 127
        if exponent == 5:
            value = np.where(last == 124, np.inf, np.where(last > 124, np.nan, value))
            unit = np.where(last >= 124, 0, unit)
        else:
            value = np.where(last == 127, np.nan, value)
            unit = np.where(last == 127, 0, unit)
        return np.where(b >= 128, -value, value).astype(np.float32), unit.astype(np.float32)

    return read


#: Code, elements and bytes of a block, and what it stands for.
BLOCKS: dict[str, tuple[int, int, int, Callable[[Ints], Blocks]]] = {
    "Q4_0": (2, 32, 18, _small(2, None, 8)),
    "Q4_1": (3, 32, 20, _small(4, None, 0)),
    "Q5_0": (6, 32, 22, _small(6, 2, 16)),
    "Q5_1": (7, 32, 24, _small(8, 4, 0)),
    "Q8_0": (8, 32, 34, _q8_0),
    "Q2_K": (10, 256, 84, _q2_k),
    "Q3_K": (11, 256, 110, _q3_k),
    "Q4_K": (12, 256, 144, _q45_k(16)),
    "Q5_K": (13, 256, 176, _q45_k(48)),
    "Q6_K": (14, 256, 210, _q6_k),
    "F8_E4M3": (64, 1, 1, _float8(4)),
    "F8_E5M2": (65, 1, 1, _float8(5)),
}


def dequantise(name: str, data: bytes) -> tuple[Ints, Ints]:
    """Bits of the values and of the steps of whole blocks."""
    size, read = BLOCKS[name][2:]
    b = np.frombuffer(data, np.uint8).astype(np.int64).reshape(-1, size)
    with np.errstate(all="ignore"):
        found = read(b)
    out = []
    for v in found:
        single = np.ascontiguousarray(v, np.float32).ravel()
        out.append(np.where(np.isnan(single), NAN, single.view(np.uint32).astype(np.int64)))
    return out[0], out[1]
