"""Direct quantisation: weights to integer codes and back, one block of rows at a time.

A receiver needs the codes and what they mean (scales, zero points). Encoders return both as what is
transmitted, and decoders have nothing else, so that a size that is reported is one that suffices.
A tensor's row is its first dimension (the output channel; GGUF's and ONNX's as they store them),
all others are its columns, as for P2U.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from p2u.errors import UnsupportedError
from p2u_lab.methods.packing import Codes, pack_codes, unpack_codes

Weights = npt.NDArray[np.float32]

#: Up to this width scales are fp16, as in GPTQ's and AWQ's files; steps of wider codes may be too
#: small for it, and are fp32.
HALF_SCALES = 8


class Quantiser(ABC):
    """A way to round the weights of a tensor.

    Attributes:
        name: For tables.
        widths: Bits per code that it has.
    """

    name: str
    widths: Iterable[int]

    def learn(self, blocks: Iterable[Weights], bits: int) -> bytes:
        """What is said once per tensor; ``blocks`` are all of its rows."""
        return b""

    @abstractmethod
    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """Codes, shape (rows * cols,), of finite weights, shape (rows, cols); and their scales.

        Raises:
            UnsupportedError: The weights are too large for the scales' type.
        """

    @abstractmethod
    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """The weights that a receiver has, of this shape."""

    def entropy_coded(self, codes: Codes, bits: int) -> bytes | None:
        """Codes coded in a way that knows what they are; None: as any codes are."""
        return None


class TensorMinMax(Quantiser):
    """One scale per tensor, from its least to its largest weight: the classic baseline.

    ``w = low + code * step`` with ``step = (high - low) / (2^bits - 1)``; low and step are fp32.
    """

    name = "minmax-tensor"
    widths = range(2, 17)
    _HEAD = struct.Struct("<2f")

    def learn(self, blocks: Iterable[Weights], bits: int) -> bytes:
        """Low and step."""
        edges = [(float(block.min()), float(block.max())) for block in blocks]
        low, high = min(e[0] for e in edges), max(e[1] for e in edges)
        step = _upwards(np.array([(high - low) / (2**bits - 1)]), np.dtype(np.float32))
        return self._HEAD.pack(low, step[0])

    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """See `Quantiser.encode`."""
        low, step = self._HEAD.unpack(common)
        if step == 0:
            return np.zeros(weights.size, np.uint16), b""
        return _codes((weights.reshape(-1).astype(np.float64) - low) / step, 2**bits - 1), b""

    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """See `Quantiser.decode`."""
        low, step = np.frombuffer(common, "<f4")
        out: Weights = (low + codes.astype(np.float32) * step).reshape(shape)
        return out


class ChannelAbsMax(Quantiser):
    """One scale per row, symmetric: ``w = (code - top) * scale`` with ``top = 2^(bits - 1) - 1``.

    The scale is ``max |w| / top``, rounded up to fp16 (fp32 above 8 bits).
    """

    name = "absmax-channel"
    widths = range(2, 17)

    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """See `Quantiser.encode`."""
        top = 2 ** (bits - 1) - 1
        scale = _upwards(np.abs(weights).max(axis=1).astype(np.float64) / top, _type(bits))
        rounded = np.rint(_ratio(weights, scale[:, None])) + top
        return _codes(rounded.reshape(-1), 2 * top), scale.tobytes()

    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """See `Quantiser.decode`."""
        scale = np.frombuffer(scales, _type(bits)).astype(np.float32)
        signed = codes.astype(np.float32) - np.float32(2 ** (bits - 1) - 1)
        out: Weights = signed.reshape(shape) * scale[:, None]
        return out


class Affine(Quantiser):
    """One scale and zero point per group of a row: ``w = (code - zero) * scale``.

    Round to nearest between the group's least and largest weight, or 0 where that lies beyond, with
    what GPTQ's and AWQ's files store: a scale in fp16 (fp32 above 8 bits) and a zero point of as
    many bits as a code. A row's last group may be shorter.

    Args:
        name: For tables.
        group: Weights per group; None: whole rows.
        widths: Bits per code.
    """

    def __init__(self, name: str, group: int | None, widths: Iterable[int]) -> None:
        self.name = name
        self.widths = widths
        self._group = group

    def _grouped(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Shape (rows, groups, group), filled up with zeros, which change no group's range."""
        cols = rows.shape[1]
        group = self._group or cols
        padded = np.pad(rows, ((0, 0), (0, -cols % group)))
        return padded.reshape(len(rows), -1, group)

    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """See `Quantiser.encode`."""
        most = 2**bits - 1
        groups = self._grouped(weights)
        low = np.minimum(groups.min(axis=2), 0).astype(np.float64)
        high = np.maximum(groups.max(axis=2), 0).astype(np.float64)
        scale = _upwards((high - low) / most, _type(bits))
        zero = _codes(_ratio(-low, scale), most)
        rounded = np.rint(_ratio(groups, scale[:, :, None])) + zero[:, :, None]
        codes = _codes(rounded, most).reshape(len(weights), -1)[:, : weights.shape[1]]
        return codes.reshape(-1), scale.tobytes() + pack_codes(zero.reshape(-1), bits)

    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """See `Quantiser.decode`."""
        groups = self._grouped(codes.reshape(shape))
        count = groups.shape[0] * groups.shape[1]
        scale = np.frombuffer(scales, _type(bits), count).astype(np.float32)
        zero = unpack_codes(scales[count * _type(bits).itemsize :], bits, count)
        signed = groups.reshape(count, -1).astype(np.float32) - zero[:, None].astype(np.float32)
        out: Weights = (signed * scale[:, None]).reshape(shape[0], -1)[:, : shape[1]]
        return out


def _type(bits: int) -> np.dtype[Any]:
    return np.dtype("<f2" if bits <= HALF_SCALES else "<f4")


def _codes(values: npt.NDArray[Any], most: int) -> Codes:
    """The nearest integers from 0 to ``most``."""
    out: Codes = np.clip(np.rint(values), 0, most).astype(np.uint16)
    return out


def _ratio(weights: npt.NDArray[Any], scale: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Weights in units of their scales; 0 where the scale is 0, as all weights are then."""
    wide = scale.astype(np.float64)
    return weights / np.where(wide > 0, wide, 1)


def _upwards(scale: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The least numbers of a type that are not smaller: so no weight lies beyond the last code.

    Raises:
        UnsupportedError: They would be infinite.
    """
    with np.errstate(over="ignore"):
        out = scale.astype(dtype)
        out = np.where(out.astype(np.float64) < scale, np.nextafter(out, dtype.type(np.inf)), out)
    if not np.isfinite(out).all():
        raise UnsupportedError(f"weights are too large for scales of {8 * dtype.itemsize} bits")
    return out.astype(dtype)
