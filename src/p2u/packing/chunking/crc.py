"""Compute the CRC-32 of joined parts from the CRC-32 of each, without their bytes.

Source of the method: ``crc32_combine`` of zlib. A CRC is a polynomial over GF(2) modulo P; its bits
are reversed here, bit 31 is the coefficient of x^0. Behind another part of n bytes, a part's CRC is
multiplied by x^(8n).
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def _times(a: int, b: int) -> int:
    """``a * b`` modulo P."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=1)
def _squares() -> tuple[int, ...]:
    """``x^(8 * 2^k)`` modulo P for k below 64."""
    out = [1 << 23]
    while len(out) < 64:
        out.append(_times(out[-1], out[-1]))
    return tuple(out)


@lru_cache(maxsize=1024)
def _shift(count: int) -> int:
    """``x^(8 * count)`` modulo P."""
    power = _ONE
    for bit, square in enumerate(_squares()):
        if count >> bit & 1:
            power = _times(square, power)
    return power


def combine(first: int, second: int, size: int) -> int:
    """CRC-32 of two parts joined.

    Args:
        first: CRC-32 of the first part.
        second: CRC-32 of the second part.
        size: Bytes of the second part, below 2^64.
    """
    return _times(_shift(size), first) ^ second
