"""The float formats as ordered integers (SPEC.md 6.2). float64 holds all their values exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Format:
    """One float format: its code on the wire, bytes, mantissa bits and exponents."""

    code: int
    size: int
    mant: int
    #: Exponent of the smallest normal number.
    low: int
    e_min: int
    e_max: int

    @property
    def sign(self) -> int:
        return 1 << (8 * self.size - 1)

    @property
    def bias(self) -> int:
        """Exponent field of the numbers from 1 to 2."""
        return 1 - self.low

    @property
    def inf(self) -> int:
        """Ordered integer of infinity."""
        return self.sign - (1 << self.mant)

    def load(self, memory: Any) -> Ints:
        return np.frombuffer(memory, f"<u{self.size}").astype(np.int64)

    def store(self, bits: Ints) -> bytes:
        return bits.astype(f"<u{self.size}").tobytes()

    def value(self, u: Ints) -> Floats:
        """Value of ordered integers; infinity and NaN have none and get infinity."""
        exponent, fraction = u >> self.mant, u & ((1 << self.mant) - 1)
        units = fraction + np.where(exponent > 0, 1 << self.mant, 0)
        v = np.ldexp(units.astype(np.float64), np.maximum(exponent - 1, 0) + self.low - self.mant)
        return np.where(u < self.inf, v, np.inf)

    def _units(self, v: Floats) -> tuple[Floats, Ints]:
        """``v`` in units of the last place around it, and the ordered integer of 0 units there."""
        octave = np.maximum(np.frexp(v)[1] - 1, self.low)
        octave = np.where(v > 0, octave, self.low)
        units = np.ldexp(v, self.mant - octave)
        return units, (octave - self.low).astype(np.int64) << self.mant

    def floor(self, v: Floats) -> Ints:
        """The largest finite ordered integer with at most this value, ``0 <= v``."""
        units, start = self._units(v)
        return np.minimum(start + np.floor(units).astype(np.int64), self.inf - 1)


FORMATS = {
    "F32": Format(code=1, size=4, mant=23, low=-126, e_min=-110, e_max=119),
    "F16": Format(code=2, size=2, mant=10, low=-14, e_min=-23, e_max=8),
    "BF16": Format(code=3, size=2, mant=7, low=-126, e_min=-110, e_max=119),
}
