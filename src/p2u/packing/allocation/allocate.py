"""Choose the offset of each tensor, so that the base has the size that the recipe asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from p2u.errors import UsageError
from p2u.package.geometry import Chunk
from p2u.package.index import encode_index
from p2u.package.layout import Layout
from p2u.packing.allocation.sample import Sample
from p2u.packing.allocation.shares import (
    FINE,
    START,
    Shares,
    coarsest,
    estimate_level,
    find_level,
    log2_64,
)
from p2u.packing.chunking.cut import Grade, Job
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment, treatment
from p2u.packing.engines.engine import Engine
from p2u.packing.levels.encode import BaseSizes, EncoderSpec
from p2u.packing.recipe import Recipe

#: Bits per weight of the base if nothing else is asked for.
BITS = 3.5
#: Tensors of one chunk lie less than this many steps of an offset apart, for the sake of tables.
#: But few weights have no tables of their own, which would cost more.
BAND = 32
FEW = 1 << 15
#: Bands of tensors with bits of their own begin here.
OWN = 1 << 16


@dataclass(frozen=True, slots=True)
class OffsetGroup:
    """Tensors that rise and fall together.

    Attributes:
        numbers: Theirs in the layout.
        weights: How many all of them have.
        shares: Their offsets against one another.
        bits: Bits per weight, if that was asked for.
        rule: The override that says so.
    """

    numbers: tuple[int, ...]
    weights: int
    shares: Shares
    bits: float | None
    rule: int | None

    def offsets(self, level: int) -> dict[int, int]:
        """Offset of each tensor by number."""
        return dict(zip(self.numbers, self.shares.offsets(level), strict=True))


class Allocation:
    """A recipe, applied to the tensors of a model.

    Args:
        layout: The tensors.
        recipe: What is asked.
        files: Paths of the model's files.

    Raises:
        UsageError: The recipe speaks of tensors that are not there.
    """

    def __init__(self, layout: Layout, recipe: Recipe, files: Sequence[str]) -> None:
        tensors = layout.tensors
        names = [(files[t.file], t.name) for t in tensors]
        self.recipe = recipe
        self._count = len(tensors)
        how = [
            treatment(t.dtype, t.shape, t.elems, recipe.kept(name))
            for t, name in zip(tensors, names, strict=True)
        ]
        graded = [n for n, h in enumerate(how) if h is Treatment.PROGRESSIVE]
        recipe.check_names(names, [names[n] for n in graded])
        ruled: dict[int | None, list[int]] = {}
        for n in graded:
            ruled.setdefault(recipe.rule(names[n]), []).append(n)
        self.free = self._group(layout, ruled.pop(None, []), None)
        self.fixed = [self._group(layout, numbers, rule) for rule, numbers in ruled.items()]
        band = _bands(layout, self.free)
        for group in self.fixed:
            band |= dict.fromkeys(group.numbers, OWN + (group.rule or 0))
        #: How each tensor is coded.
        self.grades = [Grade(h, band.get(n, 0)) for n, h in enumerate(how)]

    def ordered(self, layout: Layout, jobs: Sequence[Job]) -> list[Job]:
        """The chunks as they go into the updates: where the damage is measured, the worst first.

        Any prefix of a refinement is the best model for its bytes then, to whoever uses it before
        it is complete. Where nothing was measured, damage per byte is held to be alike everywhere.
        """
        if not self.recipe.damage:
            return list(jobs)
        left: dict[int, int] = {}
        for group in [self.free, *self.fixed]:
            for n, share in zip(group.numbers, group.shares.shares, strict=True):
                t = layout.tensors[n]
                known = self.recipe.damage.get(t.name, min(self.recipe.damage.values()))
                # 64 * log2 of the damage that the base's error does, per weight.
                left[n] = known - log2_64(t.elems) + 2 * share
        places = [at for at, job in enumerate(jobs) if job.progressive]
        worst = sorted(places, key=lambda at: -max(left[seg.tensor] for seg in jobs[at].segments))
        out = list(jobs)
        for at, source in zip(places, worst, strict=True):
            out[at] = jobs[source]
        return out

    def _group(self, layout: Layout, numbers: list[int], rule: int | None) -> OffsetGroup:
        sizes = [layout.tensors[n].elems for n in numbers]
        cols = [layout.tensors[n].cols for n in numbers]
        if rule is None:
            known = self.recipe.damage
            shares = Shares.of(sizes, cols, [known.get(layout.tensors[n].name) for n in numbers])
            return OffsetGroup(tuple(numbers), sum(sizes), shares, self.recipe.bits, None)
        bits = self.recipe.own[rule][1]
        return OffsetGroup(tuple(numbers), sum(sizes), Shares.equal(cols), bits, rule)

    def sampled(self, model: StoredModel, jobs: Sequence[Job], threads: int) -> Levels:
        """The levels at which all groups have their bits, in a sample of their rows.

        A group without bits of its own gets those of the default.

        Raises:
            DiskError, IntegrityError: The model cannot be read.
        """
        levels = []
        for group in [self.free, *self.fixed]:
            level = START * FINE
            if group.numbers:
                sample = Sample(model, jobs, self.grades, frozenset(group.numbers))
                level = estimate_level(
                    lambda at, g=group, s=sample: s.sizes(g.offsets(at), threads),  # type: ignore[misc]
                    lambda at, g=group, s=sample: s.places(g.offsets(at)),  # type: ignore[misc]
                    sample.stands_for,
                    round((group.bits or BITS) * sample.weights),
                )
            levels.append(level)
        return Levels(self, levels[0], tuple(levels[1:]))


def _bands(layout: Layout, group: OffsetGroup) -> dict[int, int]:
    """Number of the band that each tensor belongs to."""
    bands: dict[int, int] = {}
    band = start = last = weights = 0
    for share, n in sorted(zip(group.shares.shares, group.numbers, strict=True)):
        # Equal ones are never parted.
        if not bands or (share - start >= BAND and weights >= FEW and share > last):
            band, start, weights = band + 1, share, 0
        last = share
        bands[n] = band
        weights += layout.tensors[n].elems
    if weights < FEW:
        bands = {n: b if b < band else max(1, band - 1) for n, b in bands.items()}
    return bands


@dataclass(frozen=True, slots=True)
class Levels:
    """The coarseness of an allocation's groups.

    Attributes:
        allocation: The allocation.
        free: Level of the tensors without bits of their own.
        fixed: Levels of the others' groups.
    """

    allocation: Allocation
    free: int
    fixed: tuple[int, ...]

    def offsets(self, free: int | None = None) -> list[int]:
        """Offset of each tensor's step, by number; those without levels have the default one."""
        offsets = [START] * len(self.allocation.grades)
        levels = (self.free if free is None else free, *self.fixed)
        groups = [self.allocation.free, *self.allocation.fixed]
        for group, level in zip(groups, levels, strict=True):
            for number, offset in group.offsets(level).items():
                offsets[number] = offset
        return offsets


class Fitter:
    """Finds the finest base within a number of bytes, by coding all of it a few times.

    Args:
        levels: Of the tensors with bits of their own; the others' is a first guess.
        jobs: All chunks.
        spec: Of an encoder with the given offsets.
        engine: Does the work.
        memory: Most bytes of all chunks under way.
        layout_size: Bytes of the layout.
    """

    def __init__(
        self,
        levels: Levels,
        jobs: Sequence[Job],
        spec: Callable[[list[int]], EncoderSpec],
        engine: Engine,
        memory: int,
        layout_size: int,
    ) -> None:
        self._levels = levels
        self._jobs = jobs
        self._spec = spec
        self._engine = engine
        self._memory = memory
        self._layout_size = layout_size
        self._free = frozenset(levels.allocation.free.numbers)
        self._sizes: dict[int, int] = {}
        self._known: dict[int, int] = {}

    def size(self, free: int) -> int:
        """Bytes of the base state at a level of the free tensors; checksums do not count."""
        if free in self._known:
            return self._known[free]
        work = BaseSizes(self._spec(self._levels.offsets(free)))
        todo = [n for n in range(len(self._jobs)) if n not in self._sizes]
        with closing(
            self._engine.run(work, [self._jobs[n] for n in todo], self._memory)
        ) as results:
            sizes = {n: size for n, (_, size) in zip(todo, results, strict=True)}
        # Chunks that do not depend on the level are coded once.
        self._sizes |= {n: s for n, s in sizes.items() if not self._moves(self._jobs[n])}
        sizes |= self._sizes
        digest = hashlib.sha256().digest()
        chunks = [
            Chunk(n, 0, 0, sizes[n], digest, job.segments, job.pieces)
            for n, job in enumerate(self._jobs)
        ]
        index = len(encode_index(chunks))
        self._known[free] = self._layout_size + index + sum(sizes.values())
        return self._known[free]

    def _moves(self, job: Job) -> bool:
        return job.progressive and any(seg.tensor in self._free for seg in job.segments)

    def fit(self, budget: int, more: int) -> Levels:
        """The levels of the finest base within a budget.

        Args:
            budget: Most bytes.
            more: Bytes that the base has besides those that `size` knows of.

        Raises:
            UsageError: There is none.
        """
        free = self._levels.allocation.free
        found = find_level(
            lambda at: 8 * (self.size(at) + more), 8 * budget, free.weights, self._levels.free
        )
        if found is None:
            least = self.size(coarsest()) + more
            raise UsageError(
                f"the base cannot be as small as {budget:,} bytes",
                hint=f"The smallest base of this model and recipe has {least:,} bytes",
            )
        return Levels(self._levels.allocation, found, self._levels.fixed)
