"""Stage a chain of updates for one commit: across versions, or from a newer base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from p2u.client.live.memory import ModelMemory
from p2u.client.live.places import Placed, Ranges
from p2u.client.live.staging.copied import CopiedUpdate, copy, merge
from p2u.client.live.staging.tools import StagingTools
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Bundle
from p2u.package.geometry import Span
from p2u.package.manifest import Update


class ChainedUpdate(CopiedUpdate):
    """One update of a chain, into the spare memory; the last one checks and commits them all.

    Bytes that an update of the chain has brought are read there by the next one, all others where
    the model lies. So the memory taken is that of the tensors that change, however long the chain.

    Args:
        files: The memory.
        target: The release that the update leads to, and the places of its bytes.
        update: The update.
        bundles: All of it.
        check: Which files are compared with their digests before the commit.
        tools: Limits and functions of staging.
        source: Id of the state that the memory holds.
        before: What the updates before have brought.
        checked: Whether the files are checked after it; they have to be at the end.

    Attributes:
        covered: What this one and those before have brought.
    """

    def __init__(
        self,
        files: ModelMemory,
        target: Placed,
        update: Update,
        bundles: Sequence[Bundle],
        check: str,
        tools: StagingTools,
        *,
        source: str | None,
        before: Ranges,
        checked: bool,
    ) -> None:
        # Which files are others than before the chain.
        whole = Stretch((replace(update, source=source),))
        super().__init__(files, target, whole, bundles, check, tools)
        self.stretch = Stretch((update,))
        self._before = before
        self._checked = checked
        own = [(file, a, b - a) for file, ranges in self._ranges.items() for a, b in ranges]
        old = [(file, a, b - a) for file, ranges in before.items() for a, b in ranges]
        self.covered: Ranges = merge([*own, *old])
        self._ranges = self.covered
        self._unchecked |= target.places.touched(self.covered)

    def take(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """See `StagedUpdate.take`."""
        if self.stretch.source is not None:
            for s in self.spans(bundle):
                for start, end in gaps(s, self._before):
                    copy(self._spare[s.file][start:end], self.files.regions[s.file][start:end])
        self.decode(bundle, payloads, self._spare)

    def complete(self, file: int) -> None:
        """See `StagedUpdate.complete`."""
        if self._checked and file in self._unchecked:
            super().complete(file)

    def prepare(self) -> None:
        """See `StagedUpdate.prepare`."""
        if self._checked:
            super().prepare()


def gaps(span: Span, ranges: Ranges) -> Iterator[tuple[int, int]]:
    """The parts of a span that lie in none of the ranges."""
    at, end = span.offset, span.offset + span.size
    for first, last in ranges.get(span.file, ()):
        if first >= end:
            break
        if last <= at:
            continue
        if first > at:
            yield at, first
        at = last
    if at < end:
        yield at, end
