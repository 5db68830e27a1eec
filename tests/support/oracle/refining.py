"""Refinements to try the codec on: of states, and of bytes that are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from oracle.choices import Choices
from oracle.encode import encode_refinement
from oracle.floats import FORMATS, Flags, Format, Ints
from oracle.levels import Rows, bin_bits, nearest_bin, steps
from oracle.refine import COARSE, EXACT, MOST, MOST_FINER, MOST_FIRST, SHIFTED, Head
from oracle.samples import FAMILIES, Sample, samples
from p2u.codec import core

#: What a refinement begins at: the state; bins that are not the nearest; other floats; any bits.
BEFORE = ("state", "state", "codes", "other", "noise")


def state_of(f: Format, weights: Ints, e: Ints, halvings: int, first: int = MOST) -> Ints:
    """The weights' state after so many halvings, in one step (SPEC.md 6.3 and 6.4).

    Args:
        f: Format of the weights.
        weights: Their bits.
        e: Step exponents.
        halvings: Halvings behind the state; 0: the base's.
        first: How many of them may lead beyond the upper mantissa.
    """
    a, sign = steps(f, weights, e), weights & f.sign
    q = np.where(weights >= f.sign, -nearest_bin(a), nearest_bin(a))
    state = bin_bits(f, q, e)
    if halvings:
        octave = np.maximum(weights % f.sign >> f.mant, 1) - f.bias
        g = np.maximum(e - halvings, np.minimum(e - min(first, halvings), octave - 7))
        cell = np.floor(np.ldexp(np.where(a < 127.5, a, 0.0), e - g))
        state = sign + f.floor(np.ldexp(cell + 0.5, g))
        state = np.where(weights % f.sign == 0, weights, state)
    return np.where(a >= 127.5, weights, state)


@dataclass(frozen=True)
class Refining:
    """A refinement, with the floats that it leads to and what it begins at."""

    sample: Sample
    head: Head
    before: str
    #: Step exponents of rows are around this one; None: anywhere.
    step: int | None
    seed: int

    @property
    def rows(self) -> Rows:
        return Rows.of(list(self.sample.shapes))

    @property
    def f(self) -> Format:
        return FORMATS[self.sample.dtype]

    @property
    def first(self) -> int:
        """Halvings of the first refinement's positions, if this one is not the first."""
        return self.head.mid if self.head.start == 0 else min(1 + self.seed % 8, self.head.start)

    def exponents(self) -> list[int]:
        rng, count = np.random.default_rng(self.seed), len(self.rows.lengths)
        if self.step is None:
            return [int(e) for e in rng.integers(self.f.e_min, self.f.e_max + 1, count)]
        near = self.step + rng.integers(-1, 2, count)
        return [int(e) for e in np.clip(near, self.f.e_min, self.f.e_max)]

    def steps(self) -> Ints:
        """Step exponents of elements."""
        return np.array(self.exponents())[self.rows.row]

    def previous(self) -> Ints:
        f, rng, n = self.f, np.random.default_rng(self.seed + 1), self.sample.elems
        if self.before == "noise":
            return rng.integers(0, 2 * f.sign, n)
        if self.before == "other":
            return FAMILIES[str(rng.choice(list(FAMILIES)))](rng, self.sample.dtype, n)
        weights, e = self.sample.weights(), self.steps()
        state = state_of(f, weights, e, self.head.start, self.first)
        if self.before == "codes" and self.head.start == 0:
            q = rng.integers(-1, 2, n) * rng.choice([1, 8, 127])
            state = np.where(steps(f, weights, e) < 127.5, bin_bits(f, q, e), state)
        return state

    def memory(self, bits: Ints) -> list[core.Segment]:
        """Segments that hold these elements, to be written to."""
        out, at = [], 0
        for elems, cols in self.sample.shapes:
            part = self.f.store(bits[at : at + elems])
            out.append(core.Segment(bytearray(part), elems, cols))
            at += elems
        return out

    def payload(self, choices: Any) -> bytes:
        return encode_refinement(
            self.sample.dtype,
            self.sample.segments(),
            self.f.store(self.previous()),
            self.exponents(),
            self.head,
            choices,
        )


class Thrifty(Choices):
    """A writer that patches only what must be.

    Args:
        seed: Of the other choices.
        tz: Trailing zeros of all rows; None: as many as each has.
    """

    def __init__(self, seed: int, tz: int | None = None) -> None:
        super().__init__(seed)
        self._tz = tz

    def patched(self, must: Flags) -> Flags:
        return must

    def trailing(self, most: Any) -> list[int]:
        return list(most) if self._tz is None else [self._tz] * len(most)


class Wild(Choices):
    """A writer that knows nothing of the floats: fields and symbols are any that fit."""

    def fill(self, name: str, values: Ints, free: Flags) -> Ints:
        return super().fill(name, values, np.ones(len(free), bool))

    def patched(self, must: Flags) -> Flags:
        few: Flags = self._rng.random(len(must)) < 0.01
        return few

    def trailing(self, most: Any) -> list[int]:
        return [self._between(0, 7) for _ in most]


def heads() -> list[Head]:
    """Every head that is allowed."""
    found = []
    for start in range(MOST + 1):
        for mid in range(1, MOST_FIRST + 1) if start == 0 else [start]:
            for to in range(mid, min(mid + MOST_FINER, MOST) + 1):
                for flags in range(16):
                    first = start == 0 and (mid > 1 or not flags & COARSE)
                    if (first or not flags & (SHIFTED | COARSE)) and (to > start or flags & EXACT):
                        found.append(Head(flags, start, mid, to))
    return found


HEADS = heads()
refinings = st.builds(
    Refining,
    sample=samples,
    head=st.sampled_from(HEADS),
    before=st.sampled_from(BEFORE),
    step=st.sampled_from([None, -24, -12, -6, 0]),
    seed=st.integers(0, 2**32 - 2),
)
