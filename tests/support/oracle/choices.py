"""What the format leaves to the writer."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.adopt import Head as AdoptHead
from oracle.delta import Head as DeltaHead
from oracle.floats import Flags, Format, Ints
from oracle.gaps import Head as GapsHead
from oracle.rans import TOTAL, Log, Table
from oracle.refine import COARSE, EXACT, MOST, MOST_FINER, MOST_FIRST, SHIFTED, SPARSE, Head


class Replay:
    """The choices that a decoder met in one payload, once more."""

    def __init__(self, log: Log) -> None:
        self._queues: dict[str, deque[Any]] = defaultdict(deque)
        for name, value in log:
            self._queues[name].append(value)

    def _next(self, name: str) -> Any:
        return self._queues[name].popleft()

    def used_up(self) -> bool:
        return not any(self._queues.values())

    def lanes(self, count: int) -> Any:
        return self._next("lanes")

    def table(self, counts: Sequence[int]) -> Any:
        return self._next("table")

    def ints(self, values: Sequence[int]) -> Any:
        return self._next("ints")

    def columns(self, count: int) -> Any:
        return self._next("columns")

    def head(self, start: int, level: int) -> Any:
        return self._next("head")

    def trailing(self, most: Sequence[int]) -> Any:
        return self._next("trailing")

    def patched(self, must: Flags) -> Any:
        return self._next("patched")

    def fill(self, name: str, values: Ints, free: Flags) -> Ints:
        return np.where(free, self._next(name), values)

    def plane(self, plane: Any) -> Any:
        return self._next("plane")

    def plane_of(self, plane: Any, old: Any) -> Any:
        return self._next("plane")

    def stride(self, size: int) -> Any:
        return self._next("stride")

    def delta(self, f: Format, new: Any, differs: Any) -> Any:
        return self._next("delta"), self._next("bitmap")

    def adopt(self, f: Format) -> Any:
        return self._next("adopt")

    def gaps(self, f: Format, changed: Any) -> Any:
        return self._next("gaps")


class Choices:
    """Random choices out of all that the format allows."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def _pick(self, *options: Any) -> Any:
        return options[self._rng.integers(len(options))]

    def _between(self, least: int, most: int) -> int:
        return int(self._rng.integers(least, most + 1))

    def lanes(self, count: int) -> int:
        """Base-two logarithm of the number of lanes."""
        return self._between(0, 6)

    def ints(self, values: Sequence[int]) -> tuple[int, int]:
        """Mode and lowest value."""
        low, high = min(values), max(values)
        modes = [2] + [1] * (high - low < 256) + [0] * (high == low)
        mode = self._pick(*modes)
        if mode == 1:
            low = max(self._between(high - 255, low), -0x8000)
        return mode, low

    def columns(self, count: int) -> list[int]:
        return [self._between(0, 3)] * count if self._pick(0, 1) else self._some(0, 3, count)

    def _some(self, least: int, most: int, count: int) -> list[int]:
        out: list[int] = self._rng.integers(least, most + 1, count).tolist()
        return out

    def head(self, start: int, level: int) -> Head:
        """Flags and halvings of a refinement to a level; 0 is exact."""
        mid, flags = start, 0 if level else EXACT
        if start == 0:
            mid = self._between(max(level - MOST_FINER, 1), min(level or MOST, MOST_FIRST))
        to = level or self._pick(mid, self._between(mid, min(mid + MOST_FINER, MOST)))
        flags |= self._pick(0, SPARSE)
        if start == 0:
            flags |= self._pick(0, SHIFTED, SHIFTED) | (self._pick(0, COARSE) if mid > 1 else 0)
        return Head(flags, start, mid, to)

    def trailing(self, most: Sequence[int]) -> list[int]:
        """Trailing zero bits of each row, at most what the row has."""
        return [self._pick(0, m, self._between(0, m)) for m in most]

    def patched(self, must: Flags) -> Flags:
        """Elements that travel whole: those that must, and perhaps some more."""
        more = self._rng.random(len(must)) < self._pick(0.0, 0.0, 0.1)
        patched: Flags = must | more
        return patched

    def fill(self, name: str, values: Ints, free: Flags) -> Ints:
        """Values of a field; those of free elements do not matter."""
        end = {"zeros": 3, "shifts": 256, "octaves": 256}.get(name, 1 << 24)
        return np.where(free, self._rng.integers(0, end, len(values)), values)

    def plane(self, plane: Any) -> int:
        return int(self._pick(1, 2, 2, *([0] * bool((plane == plane[0]).all()))))

    def delta(self, f: Format, new: Any, differs: Any) -> tuple[DeltaHead, Any]:
        """Parameters of a delta, and its bitmap."""
        widths = [self._pick(0, self._between(0, 24)) for _ in range(16)]
        if self._pick(True, False):
            widths = [0] * 16
        block = self._between(6, 12)
        used = [part.any() for part in np.split(differs, range(1 << block, len(new), 1 << block))]
        more = [u or self._pick(True, False, False) for u in used]
        bits = np.packbits(np.array(more), bitorder="little").astype(np.int64)
        tz = self._pick(0, self._between(0, f.mant))
        return DeltaHead(self._between(0, 255), tz, block, widths), bits

    def adopt(self, f: Format) -> AdoptHead:
        """Parameters of what is adopted, the map without sense."""
        usual = max(f.mant - 3, 0)
        tz = self._pick(0, 0, self._between(0, f.mant))
        widths = [self._pick(0, usual, self._between(0, 24)) for _ in range(16)]
        return AdoptHead(tz, self._between(0, 32), widths, self._some(0, 15, 64))

    def gaps(self, f: Format, changed: Any) -> GapsHead:
        """Parameters of gaps."""
        low = self._pick(self._between(0, 255), self._between(100, 125))
        return GapsHead(low, self._some(0, 15, 16), self._some(0, 20, 16))

    def plane_of(self, plane: Any, old: Any) -> int:
        """Mode of a plane of which the parent is known."""
        same = [3] * bool((plane == old).all())
        return int(self._pick(self.plane(plane), 4, 5, 6, *same))

    def stride(self, size: int) -> int:
        return self._between(1, min(size, 12))

    def table(self, counts: Sequence[int]) -> Table | None:
        """Some table that can code these symbols, nowhere near the best one."""
        used = np.flatnonzero(counts).tolist()
        if used in ([], [0]) and self._pick(True, False):
            return None
        used = used or [0]
        first = self._pick(used[0], self._between(0, used[0]))
        last = self._pick(used[-1], self._between(used[-1], 255))
        shown = counts[first : last + 1]
        rest = self._pick(int(np.argmax(shown)), self._pick(*used) - first)
        coarse = len(used) < TOTAL // 16 and self._pick(True, False)
        total = TOTAL // 16 if coarse else TOTAL
        # Now and then for a symbol that does not occur, too.
        spare = self._rng.random(len(shown)) < 0.05
        listed = [
            max(n * total // max(sum(shown), 1), int(n > 0), int(s))
            for n, s in zip(shown, spare, strict=True)
        ]
        while True:
            listed = [_four_bits(f) for f in listed]
            listed[rest] = 0
            left = total - sum(listed)
            if left > 0:
                break
            listed = [max(f // 2, int(n > 0)) for f, n in zip(listed, shown, strict=True)]
        listed[rest] = left
        return Table(coarse, first, rest, tuple(listed))


def _four_bits(f: int) -> int:
    """With zeros after its first four bits."""
    shift = max(f.bit_length() - 4, 0)
    return f >> shift << shift
