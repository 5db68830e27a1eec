"""Share the bits of a base among the tensors, so that they do the least damage.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
#: An estimate is taken if it lies this near the last measurement: with the slope that is assumed
#: at first, and with measured ones. Rows' steps are powers of two: slopes vary within an octave.
NEAR_ASSUMED, NEAR = 2 * FINE, 4 * FINE
#: Most measurements for an estimate.
ROUNDS = 6


def log2_64(value: float) -> int:
    """``floor(64 * log2(value))`` of a positive number, the same on every machine."""
    top, bottom = value.as_integer_ratio()
    power: int = top**OCTAVE
    # The denominator of a float is a power of two.
    return power.bit_length() - 1 - OCTAVE * (bottom.bit_length() - 1)


def finest(cols: int) -> int:
    """The finest offset of rows of so many weights."""
    return min(FINEST, FINEST_SHORT + log2_64(cols) // 2)


@dataclass(frozen=True, slots=True)
class Shares:
    """The coarseness of tensors relative to one another.

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


def _too_fine() -> int:
    """A level at which no tensor can be any finer."""
    return (2 * FINEST_SHORT - COARSEST) * FINE


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
    low, high = _too_fine(), coarsest()  # too fine, and coarse enough
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


def estimate_level(
    sizes: Callable[[int], Sequence[int]],
    places: Callable[[int], Sequence[int]],
    weights: Sequence[int],
    most: int,
) -> int:
    """The finest level whose cost is within a limit, as far as one or two measurements show.

    A line through two measurements says what each part takes at any level near them, so that the
    jumps of large tensors need no search.

    Args:
        sizes: Bits that each part takes at a level.
        places: The average offset of each part at a level, in 1/64.
        weights: How many weights each part stands for.
        most: Bits that there are for all parts.

    Returns:
        The level, see `Shares.offsets`; the coarsest one if none is within.
    """
    level, near = START * FINE, NEAR_ASSUMED
    at, found = places(level), sizes(level)
    # Bits, and the distance that takes so many fewer: one per weight and octave at first.
    slopes = [(n, OCTAVE * FINE) for n in weights]
    for _ in range(ROUNDS):
        following = _first_within(_line(places, at, found, slopes), most, level)
        if abs(following - level) <= near:
            return following
        level, near = following, NEAR
        before, at = at, places(level)
        old, found = found, sizes(level)
        # A part that stayed where it was keeps its slope.
        slopes = [
            (max(0, (a - b) * (1 if q > p else -1)), abs(q - p)) if q != p else slope
            for a, b, p, q, slope in zip(old, found, before, at, slopes, strict=True)
        ]
    return level


def _line(
    places: Callable[[int], Sequence[int]],
    at: Sequence[int],
    found: Sequence[int],
    slopes: Sequence[tuple[int, int]],
) -> Callable[[int], int]:
    """Bits of all parts at a level, by their slopes from where they were measured."""

    def bits(level: int) -> int:
        parts = zip(places(level), at, found, slopes, strict=True)
        return sum(size - fall * (q - p) // run for q, p, size, (fall, run) in parts)

    return bits


def _first_within(bits: Callable[[int], int], most: int, guess: int) -> int:
    """The finest level whose bits are within a limit, or the coarsest level."""
    low, high = _too_fine(), coarsest()
    step = FINE
    while high - low > 1:
        middle = guess if low < guess < high else (low + high) // 2
        # Away from the guess in growing steps, until the level lies between two.
        if bits(middle) <= most:
            high, guess = middle, middle - step
        else:
            low, guess = middle, middle + step
        step = 2 * step if low == _too_fine() or high == coarsest() else 0
    return high
