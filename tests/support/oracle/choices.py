"""What the format leaves to the writer."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.adopt import Head as AdoptHead
from oracle.delta import Head
from oracle.floats import Format
from oracle.rans import PAIRED, TOTAL, Log, Table, entry_of, symbols_of


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

    def table(self, counts: Sequence[int], layout: str) -> Any:
        return self._next("table")

    def ints(self, values: Sequence[int]) -> Any:
        return self._next("ints")

    def columns(self, count: int) -> Any:
        return self._next("columns")

    def flags(self, must_shift: bool, may_shift: bool) -> Any:
        return self._next("flags")

    def widths(self, f: Format, k: int) -> Any:
        return self._next("widths")

    def zeros(self, most: Sequence[int]) -> Any:
        return self._next("zeros")

    def patched(self, count: int) -> Any:
        return self._next("patched")

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

    def flags(self, must_shift: bool, may_shift: bool) -> tuple[bool, bool]:
        """Whether there is a stream of bin shifts, and whether zeros have no raw fields."""
        return must_shift or (may_shift and self._pick(False, True)), self._pick(False, True)

    def widths(self, f: Format, k: int) -> tuple[int, int]:
        """Width of raw fields, and of what stands below the symbol in context 0."""
        usual = max(f.mant - 5, 0) if k == 0 else max(k - 5, 0)
        raw = self._pick(usual, self._between(max(usual - 3, 0), min(usual + 3, 25)))
        return (raw, raw) if k else (raw, self._between(raw, min(raw + 6, 25)))

    def zeros(self, most: Sequence[int]) -> list[int]:
        """Trailing zero bits of each row, at most what the row has."""
        return [self._pick(0, m, self._between(0, m)) for m in most]

    def patched(self, count: int) -> list[tuple[int, int]]:
        """Symbols of elements that are patched, and what stands below them: they do not matter."""
        return [(self._pick(0, 3, self._between(0, 255)), 0) for _ in range(count)]

    def plane(self, plane: Any) -> int:
        return int(self._pick(1, 2, 2, *([0] * bool((plane == plane[0]).all()))))

    def delta(self, f: Format, new: Any, differs: Any) -> tuple[Head, Any]:
        """Parameters of a delta, and its bitmap."""
        widths = [self._pick(0, self._between(0, 24)) for _ in range(16)]
        if self._pick(True, False):
            widths = [0] * 16
        block = self._between(6, 12)
        used = [part.any() for part in np.split(differs, range(1 << block, len(new), 1 << block))]
        more = [u or self._pick(True, False, False) for u in used]
        bits = np.packbits(np.array(more), bitorder="little").astype(np.int64)
        tz = self._pick(0, self._between(0, f.mant))
        return Head(self._between(0, 255), tz, block, widths), bits

    def adopt(self, f: Format) -> AdoptHead:
        """Parameters of what is adopted, the map without sense."""
        usual = max(f.mant - 3, 0)
        tz = self._pick(0, 0, self._between(0, f.mant))
        widths = [self._pick(0, usual, self._between(0, 24)) for _ in range(16)]
        return AdoptHead(tz, self._between(0, 32), widths, self._some(0, 15, 64))

    def plane_of(self, plane: Any, old: Any) -> int:
        """Mode of a plane of which the parent is known."""
        same = [3] * bool((plane == old).all())
        return int(self._pick(self.plane(plane), 4, 5, 6, *same))

    def stride(self, size: int) -> int:
        return self._between(1, min(size, 12))

    def table(self, counts: Sequence[int], layout: str) -> Table | None:
        """Some table that can code these symbols, nowhere near the best one."""
        entries = [0] * (entry_of(layout, 255) + 1)
        for symbol, count in enumerate(counts):
            entries[entry_of(layout, symbol)] += count
        used = np.flatnonzero(entries).tolist()
        if used in ([], [0]) and self._pick(True, False):
            return None
        used = used or [0]
        first = 0 if layout == PAIRED else self._pick(used[0], self._between(0, used[0]))
        last = self._pick(used[-1], self._between(used[-1], len(entries) - 1))
        shown = entries[first : last + 1]
        weights = [len(symbols_of(layout, first + i)) for i in range(len(shown))]
        if layout == PAIRED:
            rest = 0  # a pair could not take an odd number
        else:
            rest = self._pick(int(np.argmax(shown)), self._pick(*used) - first)
        least = sum(w for w, n in zip(weights, shown, strict=True) if n)
        coarse = least + 1 <= TOTAL // 16 and self._pick(True, False)
        total = TOTAL // 16 if coarse else TOTAL
        # Now and then for a symbol that does not occur, too.
        wishes = [n * total // w // max(sum(shown), 1) for n, w in zip(shown, weights, strict=True)]
        spare = self._rng.random(len(shown)) < 0.05
        listed = [max(w, int(n > 0), int(s)) for w, n, s in zip(wishes, shown, spare, strict=True)]
        while True:
            listed = [_four_bits(f) for f in listed]
            listed[rest] = 0
            left = total - sum(f * w for f, w in zip(listed, weights, strict=True))
            if left > 0:
                break
            listed = [max(f // 2, int(n > 0)) for f, n in zip(listed, shown, strict=True)]
        listed[rest] = left
        return Table(coarse, first, rest, tuple(listed))


def _four_bits(f: int) -> int:
    """With zeros after its first four bits."""
    shift = max(f.bit_length() - 4, 0)
    return f >> shift << shift
