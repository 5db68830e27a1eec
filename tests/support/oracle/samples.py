"""Weights to try the codec on: what models hold, and what nobody would put into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from oracle.floats import FORMATS, Ints
from p2u.codec import core

LEVELS = ([0], [4, 0], [2, 5, 0], [8, 15, 0], [1, 2, 3, 10, 0], [15, 0], [4], [2, 8])
SHAPES = st.lists(
    st.tuples(st.integers(1, 70), st.integers(1, 8), st.integers(0, 69)), min_size=1, max_size=6
)


def bits_of(dtype: str, values: Any) -> Ints:
    """The floats next to some values, as unsigned integers."""
    with np.errstate(all="ignore"):
        if dtype == "F16":
            return np.asarray(values).astype("<f2").view("<u2").astype(np.int64)
        single = np.asarray(values).astype("<f4").view("<u4").astype(np.int64)
    return single >> 16 if dtype == "BF16" else single


def _special(rng: np.random.Generator, dtype: str, n: int) -> Ints:
    """Ordinary weights among infinities, NaNs, zeros, subnormals and the largest floats."""
    f = FORMATS[dtype]
    few = [0, 1, 2, (1 << f.mant) - 1, 1 << f.mant, f.inf - 1, f.inf, f.inf + 1, f.sign - 1]
    bits = rng.choice(np.array(few), n) + rng.integers(0, 2, n) * f.sign
    return np.where(rng.random(n) < 0.5, bits, bits_of(dtype, rng.normal(0, 0.05, n)))


def _on_edges(rng: np.random.Generator, dtype: str, n: int) -> Ints:
    """Values on and right beside halves, the edges of bins."""
    bits = bits_of(dtype, rng.integers(-300, 300, n) / 2.0 * 2.0 ** rng.integers(-6, 3))
    return np.where(bits % FORMATS[dtype].sign > 0, bits + rng.integers(-1, 2, n), bits)


FAMILIES: dict[str, Callable[[np.random.Generator, str, int], Ints]] = {
    "normal": lambda g, d, n: bits_of(d, g.normal(0, 0.02, n)),
    "sparse": lambda g, d, n: bits_of(d, g.normal(0, 1, n) * (g.random(n) < 0.1)),
    "cauchy": lambda g, d, n: bits_of(d, g.standard_cauchy(n)),
    "lognormal": lambda g, d, n: bits_of(d, np.exp(g.normal(0, 40, n)) * g.choice([-1, 1], n)),
    "constant": lambda g, d, n: np.repeat(bits_of(d, g.normal(0, 1, 1)), n),
    "zeros": lambda g, d, n: np.zeros(n, np.int64) + FORMATS[d].sign * (g.random(n) < 0.2),
    "noise": lambda g, d, n: g.integers(0, 2 * FORMATS[d].sign, n),
    "half_zeros": lambda g, d, n: bits_of(d, g.normal(0, 1, n) * g.choice([-0.0, 0.0, 1, 1], n)),
    "binades": lambda g, d, n: bits_of(d, g.normal(0, 1, n) * 2.0 ** g.integers(-40, 1, n)),
    "dead": lambda g, d, n: bits_of(d, g.normal(0, 1, n) * g.choice([1e-30, 1e-6, 1], n)),
    "special": _special,
    "edges": _on_edges,
    "born_half": lambda g, d, n: bits_of(d, g.normal(0, 0.1, n).astype("<f2").astype("<f4")),
    "tiny": lambda g, d, n: g.integers(0, 40, n) + FORMATS[d].sign * g.integers(0, 2, n),
}


@dataclass(frozen=True)
class Sample:
    """A chunk's weights: segments of ``(elems, cols)``."""

    dtype: str
    family: str
    shapes: tuple[tuple[int, int], ...]
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @property
    def elems(self) -> int:
        return sum(elems for elems, _ in self.shapes)

    @property
    def item(self) -> int:
        return FORMATS[self.dtype].size

    def segments(self) -> list[core.Segment]:
        """The weights."""
        rng = self.rng
        make = FAMILIES[self.family]
        return [
            core.Segment(FORMATS[self.dtype].store(make(rng, self.dtype, elems)), elems, cols)
            for elems, cols in self.shapes
        ]

    def weights(self) -> Ints:
        """Bits of all weights."""
        return FORMATS[self.dtype].load(b"".join(s.mem for s in self.segments()))

    def blank(self) -> list[core.Segment]:
        """Memory to decode into."""
        garbage = self.rng.integers(0, 256, self.elems * self.item, np.uint8).tobytes()
        return [core.Segment(bytearray(garbage[: e * self.item]), e, c) for e, c in self.shapes]

    def codes(self) -> bytes:
        """Base codes that have nothing to do with the weights, some out of range."""
        spread = self.rng.choice([1, 3, 40, 130])
        return self.rng.integers(-spread, spread + 1, self.elems).astype("=i2").tobytes()


def _shapes(raw: list[tuple[int, int, int]]) -> tuple[tuple[int, int], ...]:
    """Columns, rows and what the last row lacks -> elements and columns."""
    return tuple((cols * rows - missing % cols, cols) for cols, rows, missing in raw)


samples = st.builds(
    Sample,
    dtype=st.sampled_from(sorted(FORMATS)),
    family=st.sampled_from(sorted(FAMILIES)),
    shapes=SHAPES.map(_shapes),
    seed=st.integers(0, 2**32 - 1),
)


def joined(segments: list[core.Segment]) -> bytes:
    return b"".join(bytes(s.mem) for s in segments)
