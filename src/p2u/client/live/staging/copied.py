"""Stage an update as decoded copies, copied over in the commit: more memory, a short pause."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from p2u.client.live.places import Ranges
from p2u.client.live.staging.staged_update import StagedUpdate, in_threads
from p2u.client.transfer.bundles import Bundle

#: Bytes that one thread copies at a time during a commit.
_STRIDE = 4 << 20
#: Threads that copy; more only wait for the memory.
_COPIERS = 4
#: Bytes that are exchanged at a time: they stay in a processor's cache.
_HANDFUL = 256 << 10


class CopiedUpdate(StagedUpdate):
    """Tensors are decoded and checked in other memory; the commit copies them over."""

    name = "copy"

    def begin(self) -> None:
        """See `StagedUpdate.begin`."""
        spans = (span for bundle in self.bundles for span in self.spans(bundle))
        self._ranges = merge((s.file, s.offset, s.size) for s in spans)
        self._spare = self.files.spare(self._ranges)

    @property
    def spare(self) -> Mapping[int, memoryview]:
        """By region, memory of the same size: what bundles bring is there until the commit."""
        return self._spare

    def take(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """See `StagedUpdate.take`."""
        for s in self.spans(bundle):
            end = s.offset + s.size
            copy(self._spare[s.file][s.offset : end], self.files.regions[s.file][s.offset : end])
        self.decode(bundle, payloads, self._spare)

    def bytes_at(self, region: int, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes that bundles bring are in the spare memory, the rest stays as it is."""
        live = self.files.regions[region]
        for first, last in self._ranges.get(region, ()):
            if last <= start or first >= stop:
                continue
            yield live[start:first]
            yield self._spare[region][max(start, first) : min(stop, last)]
            start = last
        yield live[start:stop]

    def commit(self) -> None:
        """See `StagedUpdate.commit`."""
        self._in_pieces(copy)

    def exchange(self) -> None:
        """Commit, and keep what was there in the spare memory; a second call undoes the first."""
        self._in_pieces(exchange)

    def _in_pieces(self, move: Callable[[memoryview, memoryview], None]) -> None:
        """Call a function with the memory in use and the spare memory, wherever they differ."""
        pieces = [
            (file, at, min(at + _STRIDE, end))
            for file, ranges in self._ranges.items()
            if self.files.regions[file] is not self._spare[file]  # else it is there
            for start, end in ranges
            for at in range(start, end, _STRIDE)
        ]

        def run(piece: tuple[int, int, int]) -> None:
            file, start, end = piece
            move(self.files.regions[file][start:end], self._spare[file][start:end])

        in_threads(run, pieces, min(_COPIERS, os.cpu_count() or 1))


def copy(target: memoryview, source: memoryview) -> None:
    """Copy bytes; other threads run meanwhile, which a slice's assignment does not let them."""
    import numpy as np

    if not len(source):
        return  # which NumPy refuses
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def exchange(one: memoryview, other: memoryview) -> None:
    """Exchange bytes; other threads run meanwhile."""
    import numpy as np

    held = np.empty(min(len(one), _HANDFUL), np.uint8)
    for at in range(0, len(one), _HANDFUL):
        mine, yours = one[at : at + _HANDFUL], other[at : at + _HANDFUL]
        np.copyto(held[: len(mine)], np.frombuffer(mine, np.uint8))
        copy(mine, yours)
        np.copyto(np.frombuffer(yours, np.uint8), held[: len(mine)])


def merge(spans: Iterable[tuple[int, int, int]]) -> Ranges:
    """The sorted ranges ``(start, end)`` that spans ``(file, offset, size)`` cover, by file."""
    found: Ranges = {}
    for file, offset, size in sorted(spans):
        ranges = found.setdefault(file, [])
        if ranges and ranges[-1][1] >= offset:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], offset + size))
        else:
            ranges.append((offset, offset + size))
    return found
