"""The formats in which others send new weights to inference engines, rebuilt from their sources.

Each of them keeps a copy of the weights before on the trainer's side, as P2U does, and gives bytes
for the line; `apply` changes a receiver's tensors in place. Written with NumPy and the libraries
that they use themselves, without copies that the format does not need.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xxhash
import zstandard

Bits = np.ndarray[Any, np.dtype[np.uint16]]
Weights = Mapping[str, Bits]


class Wire(ABC):
    """One format.

    Args:
        threads: Tensors are coded in so many threads.
    """

    name: str

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def publish(self, new: Weights, old: Weights) -> dict[str, Any]:
        """What is sent for each tensor that changed."""
        found = self._each(new, lambda name: self.encode(new[name], old[name]))
        return {name: coded for name, coded in found.items() if coded is not None}

    def apply(self, sent: dict[str, Any], model: Weights) -> None:
        """Change a receiver's tensors to the new ones."""
        self._each(sent, lambda name: self.decode(sent[name], model[name]))

    def _each(self, names: Mapping[str, Any], work: Any) -> dict[str, Any]:
        if self._threads == 1:
            return {name: work(name) for name in names}
        with ThreadPoolExecutor(self._threads) as pool:
            return dict(zip(names, pool.map(work, names), strict=True))

    @abstractmethod
    def encode(self, new: Bits, old: Bits) -> Any:
        """One tensor; None if it is unchanged."""

    @abstractmethod
    def decode(self, coded: Any, model: Bits) -> None:
        """The inverse, in place."""

    def size(self, sent: dict[str, Any]) -> int:
        """Bytes on the line, names and shapes left out."""
        return sum(sum(len(memoryview(part).cast("B")) for part in c) for c in sent.values())


class Xor(Wire):
    """slime's deltas (``delta_encoding=xor``): zstd of what flipped, XXH3 of the result."""

    def __init__(self, threads: int, level: int = 1, *, checked: bool = True) -> None:
        super().__init__(threads)
        self._level, self._checked = level, checked
        self.name = f"XOR + zstd-{level}" + (" + XXH3 (slime)" if checked else " (SkyRL)")

    def encode(self, new: Bits, old: Bits) -> Any:
        """See `Wire`."""
        flipped = np.bitwise_xor(new, old)
        if not flipped.any():
            return None
        coded = zstandard.ZstdCompressor(level=self._level).compress(flipped)
        return coded, xxhash.xxh3_128(new).digest() if self._checked else b""

    def decode(self, coded: Any, model: Bits) -> None:
        """See `Wire`."""
        flipped = zstandard.ZstdDecompressor().decompress(coded[0])
        bits = model.reshape(-1)
        np.bitwise_xor(bits, np.frombuffer(flipped, np.uint16), out=bits)
        if self._checked and xxhash.xxh3_128(model).digest() != coded[1]:
            raise ValueError("the checksum differs")


class Values(Wire):
    """Indices and values, 4 + 2 bytes a change: verl's ``delta_flush``, vLLM's sparse patches."""

    name = "int32 + values (verl, vLLM)"

    def encode(self, new: Bits, old: Bits) -> Any:
        """See `Wire`."""
        bits = new.reshape(-1)
        at = np.flatnonzero(bits != old.reshape(-1)).astype(np.int32)
        return (at, bits[at]) if len(at) else None

    def decode(self, coded: Any, model: Bits) -> None:
        """See `Wire`."""
        model.reshape(-1)[coded[0]] = coded[1]


class Varints(Wire):
    """The best simple code: varints of gaps, differences of bits, then zstd-3."""

    name = "varint gaps + differences + zstd-3"

    def encode(self, new: Bits, old: Bits) -> Any:
        """See `Wire`."""
        a, b = new.reshape(-1), old.reshape(-1)
        at = np.flatnonzero(a != b)
        if not len(at):
            return None
        gaps = np.diff(at, prepend=-1) - 1
        by = (a[at] - b[at]).view(np.int16).astype(np.int32)
        zigzag = (by << 1) ^ (by >> 31)
        squeeze = zstandard.ZstdCompressor(level=3).compress
        return squeeze(_varints(gaps)), squeeze(_varints(zigzag))

    def decode(self, coded: Any, model: Bits) -> None:
        """See `Wire`."""
        expand = zstandard.ZstdDecompressor().decompress
        at = np.cumsum(_numbers(expand(coded[0])) + 1) - 1
        z = _numbers(expand(coded[1]))
        model.reshape(-1)[at] += ((z >> 1) ^ -(z & 1)).astype(np.uint16)


def _varints(values: np.ndarray[Any, Any]) -> bytes:
    """LEB128 of numbers below 2^28."""
    v = values.astype(np.uint32)
    parts = [v >> (7 * k) for k in range(4)]
    used = np.stack([np.ones(len(v), bool), *(part > 0 for part in parts[1:])])
    more = np.vstack([used[1:], np.zeros(len(v), bool)])
    stacked = np.stack([part & 127 for part in parts]) | (more * 128)
    return bytes(stacked.T[used.T].astype(np.uint8))


def _numbers(data: bytes) -> np.ndarray[Any, Any]:
    """The inverse of `_varints`."""
    raw = np.frombuffer(data, np.uint8).astype(np.int64)
    last = raw < 128
    number = np.concatenate([[0], np.cumsum(last)[:-1]])
    begin = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(raw)) - begin[number]
    out = np.zeros(int(last.sum()), np.int64)
    np.add.at(out, number, (raw & 127) << (7 * place))
    return out


def digest(weights: Weights) -> str:
    """SHA-256 of all tensors."""
    found = hashlib.sha256()
    for bits in weights.values():
        found.update(bits)
    return found.hexdigest()


def wires(threads: int) -> list[Wire]:
    """All formats."""
    return [
        Xor(threads),
        Xor(threads, 3, checked=False),
        Values(threads),
        Varints(threads),
    ]
