"""fp32 weights rounded to 16-bit floats."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from p2u.codec import core
from p2u.errors import UnsupportedError
from p2u_lab.methods.packing import Codes
from p2u_lab.methods.quantisers import Quantiser, Weights

#: As for a tensor that is exact from the base on, in `p2u.pack`: the bytes do not depend on it.
_PIECE = 1 << 20


class Cast(Quantiser):
    """Round to nearest even to a 16-bit float; a code is its bits.

    With entropy coding the codes are coded as P2U codes float tensors, all in one payload.

    Args:
        name: For tables: ``"bf16"`` or ``"fp16"``.
    """

    widths = (16,)

    def __init__(self, name: str) -> None:
        self.name = name
        self._type: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if name == "bf16" else np.float16)

    def encode(self, weights: Weights, bits: int, common: bytes) -> tuple[Codes, bytes]:
        """See `Quantiser.encode`."""
        with np.errstate(over="ignore"):
            cast = weights.astype(self._type)
        if not np.isfinite(cast.astype(np.float32)).all():
            raise UnsupportedError(f"weights are too large for {self.name}")
        return cast.view(np.uint16).reshape(-1), b""

    def decode(
        self, codes: Codes, shape: tuple[int, int], bits: int, common: bytes, scales: bytes
    ) -> Weights:
        """See `Quantiser.decode`."""
        return codes.view(self._type).astype(np.float32).reshape(shape)

    def entropy_coded(self, codes: Codes, bits: int) -> bytes | None:
        """P2U's own coding of float tensors without levels."""
        out = []
        dtype = self.name.upper().replace("FP", "F")
        for at in range(0, codes.size, _PIECE):
            piece = np.ascontiguousarray(codes[at : at + _PIECE])
            segment = core.Segment(piece, piece.size, min(piece.size, 1 << 12))
            scales = core.row_scales(dtype, 0, [segment])
            whole = core.encode(dtype, [segment], scales, [0], full=True).payloads[0]
            planes = core.encode_opaque(2, [segment]).payloads[0]
            out.append(min(whole, planes, key=len))
        return b"".join(out)
