"""How the base's bits are shared out among the tensors.

A tensor's *offset* says how coarse it is: its step is ``2 ** (offset / 64)`` times the root mean
square of each row, about, so its squared relative error grows with ``2 ** (offset / 32)`` and its
bits per weight fall by one per 64. Let ``s`` be the damage that a squared relative error of 1 does
and ``n`` the number of weights: the least damage for a size is where one more bit gains the same
anywhere, ``s * 2 ** (offset / 32) / n`` being the same for all tensors (reverse water-filling).

Without measured damage all tensors count alike, which says ``offset = c + 32 * log2(n)``: large
tensors (embeddings) coarser, small ones finer. We go three quarters of that way. See
docs/recipes.md for what that is worth, and what the rest would cost.

All of it is integer arithmetic; what was measured comes in as a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from p2u.errors import FormatError, UsageError
from p2u.recipe import BITS, check_bits

#: Steps of an offset per octave, and so per bit.
OCTAVE = 64
#: The search is finer than offsets: at a level between two offsets some tensors have the lower one.
FINE = 64
#: Range of a tensor's offset. Finer, and the tails would leave the bins; coarser is all zero.
FINEST, COARSEST = -224, 200
#: A row of ``n`` weights has none beyond ``sqrt(n)`` times their root mean square, so that short
#: ones can be finer: as fine as the last bin, the 127th, allows.
FINEST_SHORT = -447
#: A level is close enough if it has less than this to spare: 1/512 bit per weight.
CLOSE = 8
#: Looks before a search that has found something ends.
TURNS = 16
#: Where a search begins: about 3.5 bits.
START = -61

SENSITIVITY = "p2u-sensitivity"


def log2_64(value: float) -> int:
    """``floor(64 * log2(value))`` of a positive number, the same on every machine."""
    top, bottom = value.as_integer_ratio()
    power: int = top**OCTAVE
    # The denominator of a float is a power of two.
    return power.bit_length() - 1 - OCTAVE * (bottom.bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is asked of the base. At most one of `bits`, `budget` and `ratio` is set.

    Attributes:
        bits: Average bits per weight of the tensors that have levels and no bits of their own.
        budget: Most bytes of the base state, index, layout and carried files included.
        ratio: The same as a fraction of the model's bytes.
        own: Glob of tensor names to bits per weight; the last one that matches counts.
        keep: Globs of tensors that are exact from the base on.
        damage: Tensor to ``64 * log2`` of the damage that a squared relative error of 1 does.
    """

    bits: float | None = None
    budget: int | None = None
    ratio: float | None = None
    own: tuple[tuple[str, float], ...] = ()
    keep: tuple[str, ...] = ()
    damage: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        asked = [value for value in (self.bits, self.budget, self.ratio) if value is not None]
        if len(asked) > 1:
            raise UsageError(
                "the size of the base was given twice",
                hint="Choose one of --bits, --budget and --base-ratio",
            )
        if self.bits is not None:
            check_bits(self.bits)
        if self.budget is not None and self.budget < 1:
            raise UsageError(f"a budget of {self.budget} bytes", hint="Use 1 or more")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise UsageError(
                f"a base of {self.ratio:g} of the model's bytes", hint="Choose from 0 to 1"
            )
        for pattern, bits in self.own:
            if not BITS[0] <= bits <= BITS[1]:
                raise UsageError(
                    f"{bits:g} bits per weight for {pattern!r}",
                    hint=f"Choose from {BITS[0]} to {BITS[1]}, or keep these tensors exact",
                )

    def kept(self, name: str) -> bool:
        """Whether a tensor is to be exact from the base on."""
        return any(fnmatchcase(name, pattern) for pattern in self.keep)

    def rule(self, name: str) -> int | None:
        """Number of the override that a tensor has, if any."""
        matching = (n for n, (pattern, _) in enumerate(self.own) if fnmatchcase(name, pattern))
        return max(matching, default=None)

    def check_names(self, names: Sequence[str], graded: Sequence[str]) -> None:
        """Find what was written in vain.

        Args:
            names: Of all tensors.
            graded: Of those that would have levels.

        Raises:
            UsageError: A pattern matches nothing, or no tensor of the sensitivities is there.
        """
        for pattern in self.keep:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(f"no tensor matches {pattern!r}", hint=_LOOK)
        for pattern, _ in self.own:
            if not any(fnmatchcase(name, pattern) for name in graded):
                raise UsageError(f"no tensor with levels matches {pattern!r}", hint=_LOOK)
        if self.damage and not any(name in self.damage for name in graded):
            raise UsageError(
                f"the sensitivities are of other tensors: {min(self.damage)!r} is not in the model",
                hint="Measure them with a model whose parameters have the names of the file",
            )


_LOOK = "`p2u inspect PACKAGE --tensors` lists the names; quote the pattern against the shell"


def parse_damage(data: bytes, file: str) -> dict[str, int]:
    """The numbers of a sensitivity file, as `Recipe.damage` has them.

    Raises:
        FormatError: It is none.
    """
    hint = "Write it with p2u.torch.sensitivity"
    try:
        tree: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is no JSON ({error})", file=file, hint=hint) from None
    if not isinstance(tree, dict) or tree.get("format") != SENSITIVITY or tree.get("version") != 1:
        raise FormatError(f"is no {SENSITIVITY} file of version 1", file=file, hint=hint)
    return quantise(tree.get("tensors"), file)


def quantise(tensors: object, file: str = "sensitivity") -> dict[str, int]:
    """``64 * log2`` of each tensor's damage; tensors that do none count as 2**-30 of the largest.

    Raises:
        FormatError: Not a mapping of names to numbers of which one is positive.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise FormatError("expected an object of tensors and numbers", file=file)
    for name, value in tensors.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(name, str) and number and 0 <= value <= 1e300):
            raise FormatError(
                f"expected a number from 0 on, found {value!r}", file=file, tensor=str(name)
            )
    largest = max(tensors.values())
    if largest < 1e-280:
        raise FormatError("no tensor does any damage", file=file, hint="Use other inputs")
    return {name: log2_64(float(max(v, math.ldexp(largest, -30)))) for name, v in tensors.items()}


def finest(cols: int) -> int:
    """The finest offset of rows of so many weights."""
    return min(FINEST, FINEST_SHORT + log2_64(cols) // 2)


@dataclass(frozen=True, slots=True)
class Shares:
    """How coarse tensors are against one another.

    Attributes:
        shares: For each tensor its offset against the average one; weights' average is 0.
        finest: For each tensor the least offset that it can have.
    """

    shares: tuple[int, ...]
    finest: tuple[int, ...]

    @staticmethod
    def equal(cols: Sequence[int]) -> Shares:
        """Tensors with rows of so many weights, all with the same relative error."""
        return Shares((0,) * len(cols), tuple(map(finest, cols)))

    @staticmethod
    def of(sizes: Sequence[int], cols: Sequence[int], damage: Sequence[int | None]) -> Shares:
        """The shares of some tensors.

        Args:
            sizes: Their weights.
            cols: Weights of a row of each.
            damage: ``64 * log2`` of what a squared relative error of 1 does; None if not known.
        """
        known = [d for d in damage if d is not None]
        middle = sorted(known)[len(known) // 2] if known else 0
        # 64 * log2(n / s), of which a half, for errors are squared. Three quarters of n's part: the
        # last one makes the exact model up to half a per cent larger. Half of s's part: it was
        # measured for small errors on a few inputs, and a base's errors are not small. See
        # docs/recipes.md for both.
        raw = [
            3 * log2_64(n) // 8 - (0 if d is None else d - middle) // 4
            for n, d in zip(sizes, damage, strict=True)
        ]
        mean = sum(n * r for n, r in zip(sizes, raw, strict=True)) // max(1, sum(sizes))
        return Shares(tuple(r - mean for r in raw), tuple(map(finest, cols)))

    def offsets(self, level: int) -> list[int]:
        """The tensors' offsets.

        Args:
            level: Offset of the average tensor, in 1/64 of its steps; lower is finer.
        """
        # Each tensor steps at a level of its own, so that sizes change little from one to the next.
        return [
            min(max((level + 39 * n % FINE) // FINE + share, least), COARSEST)
            for n, (share, least) in enumerate(zip(self.shares, self.finest, strict=True))
        ]


def coarsest() -> int:
    """The level at which every tensor is as coarse as can be."""
    return (2 * COARSEST - FINEST_SHORT) * FINE


def find_level(
    measure: Callable[[int], int], most: int, weights: int, guess: int = START * FINE
) -> int | None:
    """The finest level whose cost is within a limit, or one that is hardly coarser.

    Args:
        measure: Bits that a level takes; the more the lower, nearly.
        most: Bits that there are.
        weights: How many weights take a bit more where the level is an octave lower.
        guess: Where to begin.

    Returns:
        The level, see `Shares.offsets`; None if not even the coarsest is within.
    """
    low, high = (2 * FINEST_SHORT - COARSEST) * FINE, coarsest()  # too fine, and coarse enough
    found, lack, spare = None, 0, 0  # of bits at `low`, and of what is left at `found`
    for turn in range(64):
        # Sizes have small jumps, so that nothing may be close: not worth many looks.
        if high - low <= 1 or (found is not None and turn >= TURNS):
            break
        if found is not None and lack:
            guess = low + (high - low) * lack // (lack + spare + 1) + 1
        at = min(max(guess, low + 1), high - 1)
        left = most - measure(at)
        step = abs(left) * OCTAVE * FINE // max(1, weights)
        if left >= 0:
            # The far end counts half each time, so that the near one does not creep (Illinois).
            high, found, spare, lack = at, at, left, lack // 2
            guess = at - step
            if step < CLOSE:
                break
        else:
            low, lack, spare = at, -left, spare // 2
            guess = at + max(step, CLOSE << turn >> 1)  # further each time: jumps lie flat between
    if found is None and measure(high) <= most:
        found = high
    return found
