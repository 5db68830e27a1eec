"""The recipe of a base: its size, its levels, and tensors that are treated on their own.

Nothing here binds a reader: another recipe changes bytes, never the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from p2u.errors import UsageError

#: Halvings of the base step at each level; 0 is exact.
HALVINGS = {"8bit": 4, "exact": 0}
BASE, EXACT = "base", "exact"

#: Bits per weight that can be asked of the base.
BITS = (1.0, 6.0)


def check_levels(levels: Sequence[str]) -> tuple[str, ...]:
    """The labels of the states, checked.

    Raises:
        UsageError: They do not run from base to exact, or name an unknown level.
    """
    labels = tuple(levels)
    between = [name for name in HALVINGS if name != EXACT]
    known = [(BASE, *between[:n], EXACT) for n in range(len(between) + 1)]
    if labels not in known:
        raise UsageError(
            f"these levels cannot be made: {','.join(labels)}",
            hint="Possible levels are " + " and ".join(",".join(k) for k in known),
        )
    return labels


def check_bits(bits: float) -> None:
    """Raise UsageError unless a base can have this many bits per weight."""
    if not BITS[0] <= bits <= BITS[1]:
        raise UsageError(f"{bits:g} bits per weight", hint=f"Choose from {BITS[0]} to {BITS[1]}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The request for a base. At most one of `bits`, `budget` and `ratio` is set.

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
            raise UsageError(f"the budget is {self.budget} bytes", hint="Use 1 or more")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise UsageError(f"the base ratio is {self.ratio:g}", hint="Choose from 0 to 1")
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
                f"the sensitivity file has other tensors: {min(self.damage)!r} is not in the model",
                hint="Measure it with a model whose parameters have the names of the model file",
            )


_LOOK = "`p2u inspect PACKAGE --tensors` lists the names; quote the pattern against the shell"
