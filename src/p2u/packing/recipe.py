"""The recipe of a base: its size, its levels, and tensors that are treated on their own.

Nothing here binds a reader: another recipe changes bytes, never the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from p2u.errors import UsageError

BASE, EXACT = "base", "exact"
#: The levels of a package if no others are asked for.
LEVELS = (BASE, "8bit", EXACT)
#: A level ``Nbit`` has the base's step halved N - 4 times: by default a base has about 4 bits.
BASE_BITS = 4
#: Most halvings of the base's step, and most from one level to the next: a reader's limits.
MOST_HALVINGS, MOST_AT_ONCE = 15, 7
#: Most halvings of the first level behind the base: more would cost large weights bits that they
#: do not have.
MOST_FIRST = 11
_BITS = re.compile(r"([1-9][0-9]{0,2})bit\Z")
_FINEST = BASE_BITS + MOST_HALVINGS
_BETWEEN = f"Between {BASE} and {EXACT} there can be {BASE_BITS + 1}bit to {_FINEST}bit"

#: Bits per weight that can be asked of the base.
BITS = (1.0, 6.0)


def check_levels(levels: Sequence[str]) -> tuple[str, ...]:
    """The labels of the states, checked.

    Args:
        levels: ``base``, any number of ``Nbit`` with growing N, ``exact``.

    Raises:
        UsageError: They are others, or not in this order.
    """
    labels = tuple(levels)
    if len(labels) < 2 or labels[0] != BASE or labels[-1] != EXACT:
        raise UsageError(
            f"the levels are {','.join(labels) or 'none'}",
            hint=f"Begin with {BASE} and end with {EXACT}, for example {','.join(LEVELS)}",
        )
    before = BASE
    for label in labels[1:-1]:
        bits = _bits(label)
        if before != BASE and bits <= _bits(before):
            raise UsageError(
                f"the level {label} is not finer than {before} before it",
                hint="Name the levels in the order of their bits, each one once",
            )
        before = label
    return labels


def halvings(labels: Sequence[str]) -> tuple[int, ...]:
    """How often the base's step is halved at each level after the base; 0 is exact.

    A level that is too far from the one before gets as many halvings as one update can bring.

    Args:
        labels: As `check_levels` gives them.
    """
    found = []
    last = 0
    for label in labels[1:-1]:
        most = min(last + MOST_AT_ONCE, MOST_HALVINGS) if last else MOST_FIRST
        last = min(_bits(label) - BASE_BITS, most)
        found.append(last)
    return (*found, 0)


def _bits(label: str) -> int:
    match = _BITS.match(label)
    bits = int(match[1]) if match else 0
    if not BASE_BITS < bits <= _FINEST:
        raise UsageError(f"there is no level {label!r}", hint=_BETWEEN)
    return bits


def check_bits(bits: float) -> None:
    """Raise UsageError unless a base can have this many bits per weight."""
    if not BITS[0] <= bits <= BITS[1]:
        raise UsageError(f"{bits:g} bits per weight", hint=f"Choose from {BITS[0]} to {BITS[1]}")


#: A tensor's file and its name: several files may have tensors of the same name.
FileTensor = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The request for a base. At most one of `bits`, `budget` and `ratio` is set.

    Attributes:
        bits: Average bits per weight of the tensors that have levels and no bits of their own.
        budget: Most bytes of the base state, index, layout and carried files included.
        ratio: The same as a fraction of the model's bytes.
        own: Glob of tensor names, or of ``file:name``, to bits per weight; the last one that
            matches counts.
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

    def kept(self, tensor: FileTensor) -> bool:
        """Whether a tensor is to be exact from the base on."""
        return any(_matches(pattern, tensor) for pattern in self.keep)

    def rule(self, tensor: FileTensor) -> int | None:
        """Number of the override that a tensor has, if any."""
        matching = (n for n, (pattern, _) in enumerate(self.own) if _matches(pattern, tensor))
        return max(matching, default=None)

    def check_names(self, tensors: Sequence[FileTensor], graded: Sequence[FileTensor]) -> None:
        """Find what was written in vain.

        Args:
            tensors: All.
            graded: Of those that would have levels.

        Raises:
            UsageError: A pattern matches nothing, or no tensor of the sensitivities is there.
        """
        for pattern in self.keep:
            if not any(_matches(pattern, tensor) for tensor in tensors):
                raise UsageError(f"no tensor matches {pattern!r}", hint=_LOOK)
        for pattern, _ in self.own:
            if not any(_matches(pattern, tensor) for tensor in graded):
                raise UsageError(f"no tensor with levels matches {pattern!r}", hint=_LOOK)
        if self.damage and not any(name in self.damage for _, name in graded):
            raise UsageError(
                f"the sensitivity file has other tensors: {min(self.damage)!r} is not in the model",
                hint="Measure it with a model whose parameters have the names of the model file",
            )


def _matches(pattern: str, tensor: FileTensor) -> bool:
    """Whether a glob means a tensor, by its name or, with a colon, by its file and its name."""
    file, name = tensor
    return fnmatchcase(name, pattern) or (":" in pattern and fnmatchcase(f"{file}:{name}", pattern))


_LOOK = "`p2u inspect PACKAGE --tensors` lists the names; quote the pattern against the shell"
