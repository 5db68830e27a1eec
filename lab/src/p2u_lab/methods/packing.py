"""Codes of 1 to 16 bits as bytes, without gaps.

Up to 8 bits, code ``i`` takes the bits from ``i * bits`` on, lowest first. Wider codes are split:
the top 8 bits of all codes, then their other bits in the same manner. That is as large, and helps a
compressor that knows bytes only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint16]
_Words = np.dtype("<u8")


def pack_codes(codes: Codes, bits: int) -> bytes:
    """Codes, shape (n,), below ``2 ** bits``, as ``ceil(n * bits / 8)`` bytes."""
    if bits > 8:
        return top_bytes(codes, bits).tobytes() + low_bits(codes, bits)
    return _pack(codes, bits)


def unpack_codes(data: bytes, bits: int, count: int) -> Codes:
    """What `pack_codes` packed, shape (count,)."""
    if bits <= 8:
        return _unpack(data, bits, count)
    tops = np.frombuffer(data, np.uint8, count).astype(np.uint16)
    if bits == 8:
        return tops
    return tops << np.uint16(bits - 8) | _unpack(data[count:], bits - 8, count)


def top_bytes(codes: Codes, bits: int) -> npt.NDArray[np.uint8]:
    """The top 8 bits of codes of more than 8 bits; all of others."""
    return (codes >> np.uint16(max(bits - 8, 0))).astype(np.uint8)


def low_bits(codes: Codes, bits: int) -> bytes:
    """What `top_bytes` leaves, packed."""
    if bits <= 8:
        return b""
    return _pack(codes & np.uint16((1 << bits - 8) - 1), bits - 8)


def _pack(codes: npt.NDArray[Any], bits: int) -> bytes:
    count = codes.size
    padded = np.zeros(-(-count // 8) * 8, np.uint8)
    padded[:count] = codes
    words = np.zeros(padded.size // 8, _Words)
    for place in range(8):
        words |= padded[place::8].astype(_Words) << np.uint64(place * bits)
    octets = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    return octets.tobytes()[: -(-count * bits // 8)]


def _unpack(data: bytes, bits: int, count: int) -> Codes:
    groups = -(-count // 8)
    octets = np.zeros((groups, 8), np.uint8)
    padded = np.zeros(groups * bits, np.uint8)
    size = -(-count * bits // 8)
    padded[:size] = np.frombuffer(data, np.uint8, size)
    octets[:, :bits] = padded.reshape(groups, bits)
    words = octets.reshape(-1).view(_Words)
    out = np.empty(groups * 8, np.uint16)
    for place in range(8):
        out[place::8] = words >> np.uint64(place * bits) & np.uint64((1 << bits) - 1)
    return out[:count]
