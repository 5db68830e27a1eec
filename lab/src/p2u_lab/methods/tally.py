"""Count the bytes that are transmitted: they are made, then counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import zstandard

from p2u.codec import core
from p2u_lab.methods.packing import Codes, low_bits, top_bytes
from p2u_lab.methods.quantisers import Quantiser

#: Of zstd: what a publisher can afford to spend once.
LEVEL = 19
#: Codes that share a table of frequencies.
TABLE = 1 << 22


class Stream:
    """Bytes that become one zstd frame; only their number is kept."""

    def __init__(self) -> None:
        self._coder = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Append."""
        self._size += len(self._coder.compress(data))

    def close(self) -> int:
        """Bytes of the frame."""
        self._size += len(self._coder.flush())
        return self._size


def zstd_size(parts: Iterable[bytes]) -> int:
    """Bytes of the parts in one zstd frame."""
    stream = Stream()
    for part in parts:
        stream.add(part)
    return stream.close()


class Tally(ABC):
    """Counts what is transmitted of coarse tensors.

    Attributes:
        suffix: What it adds to a method's name.
    """

    suffix: str

    @abstractmethod
    def codes(self, quantiser: Quantiser, codes: Codes, bits: int, packed: bytes) -> None:
        """Add codes, packed already."""

    @abstractmethod
    def scales(self, data: bytes) -> None:
        """Add what they mean."""

    @abstractmethod
    def close(self) -> int:
        """Bytes in all."""


class Plain(Tally):
    """Packed codes and scales as they are."""

    suffix = ""

    def __init__(self) -> None:
        self._size = 0

    def codes(self, quantiser: Quantiser, codes: Codes, bits: int, packed: bytes) -> None:
        """See `Tally.codes`."""
        self._size += len(packed)

    def scales(self, data: bytes) -> None:
        """See `Tally.scales`."""
        self._size += len(data)

    def close(self) -> int:
        """See `Tally.close`."""
        return self._size


class Zstd(Tally):
    """One zstd frame of all packed codes, and one of all scales."""

    suffix = "+zstd"

    def __init__(self) -> None:
        self._codes, self._scales = Stream(), Stream()

    def codes(self, quantiser: Quantiser, codes: Codes, bits: int, packed: bytes) -> None:
        """See `Tally.codes`."""
        self._codes.add(packed)

    def scales(self, data: bytes) -> None:
        """See `Tally.scales`."""
        self._scales.add(data)

    def close(self) -> int:
        """See `Tally.close`."""
        return self._codes.close() + self._scales.close()


class Entropy(Tally):
    """P2U's own rANS coder on the codes (order 0, a table per tensor or 4 Mi codes), zstd -19 else.

    Of codes of more than 8 bits the top 8 are coded and the others stored. The payloads are those
    of P2U's opaque chunks (SPEC.md, section 6.9), so the size is one that decodes, not an estimate.
    """

    suffix = "+entropy"

    def __init__(self) -> None:
        self._size = 0
        self._scales = Stream()

    def codes(self, quantiser: Quantiser, codes: Codes, bits: int, packed: bytes) -> None:
        """See `Tally.codes`."""
        coded = quantiser.entropy_coded(codes, bits)
        if coded is not None:
            self._size += len(coded)
            return
        for at in range(0, codes.size, TABLE):
            piece = codes[at : at + TABLE]
            tops = np.ascontiguousarray(top_bytes(piece, bits))
            segment = core.Segment(tops, tops.size, tops.size)
            size = len(core.encode_opaque(1, [segment]).payloads[0]) + len(low_bits(piece, bits))
            self._size += min(size, -(-piece.size * bits // 8))  # a table may not pay

    def scales(self, data: bytes) -> None:
        """See `Tally.scales`."""
        self._scales.add(data)

    def close(self) -> int:
        """See `Tally.close`."""
        return self._size + self._scales.close()
