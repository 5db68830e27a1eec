"""HQQ: half-quadratic quantisation, by its own package.

Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023). It
is not group-wise rounding with other numbers: an optimiser moves the zero points so that the error
of a few outlying weights counts less.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from p2u_lab.base import MissingDataError
from p2u_lab.methods.packing import Codes
from p2u_lab.methods.quantisers import Quantiser, Weights

#: Weights per group, HQQ's own default; HQQ wants groups to divide a tensor.
GROUP = 64


class HQQ(Quantiser):
    """Groups of at most 64 weights in the order of the file; scale and zero point are fp16.

    The widths are those that HQQ has; what it pads (3 bits to 32 in 10, 5 and 6 to bytes) is packed
    without gaps here. Weights are optimised by its defaults, on the CPU.
    """

    name = "hqq"
    widths = (2, 3, 4, 5, 6, 8)

    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """See `Quantiser.encode`.

        Raises:
            MissingDataError: HQQ or torch are not installed.
        """
        quantizer, torch = _library()
        codes, meta = quantizer.quantize(
            torch.from_numpy(weights),
            nbits=bits,
            group_size=_group(weights.size),
            optimize=True,
            axis=1,
            bitpack=False,
            compute_dtype=torch.float32,
            device="cpu",
        )
        pair = (meta[key].reshape(-1).numpy().astype("<f2") for key in ("scale", "zero"))
        return codes.reshape(-1).numpy().astype(np.uint16), b"".join(p.tobytes() for p in pair)

    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """See `Quantiser.decode`."""
        scale, zero = np.frombuffer(scales, "<f2").astype(np.float32).reshape(2, -1, 1)
        groups = codes.astype(np.float32).reshape(scale.size, -1)
        out: Weights = ((groups - zero) * scale).reshape(shape)
        return out


def _group(count: int) -> int:
    """The largest group that divides so many weights."""
    return next(size for size in range(GROUP, 0, -1) if count % size == 0)


def _library() -> tuple[Any, Any]:
    try:
        return import_module("hqq.core.quantize").Quantizer, import_module("torch")
    except ImportError as error:
        raise MissingDataError(
            f"HQQ does not import: {error}",
            hint="DISABLE_CUDA=1 pip install --no-deps hqq termcolor, next to torch",
        ) from error
