"""Choose whether a stretch of a route is made step by step or straight.

Straight saves the work of the states between, but there is nothing to use before its end. It is
the better choice where its end comes soon, or sooner than the states between could be written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from p2u.client.folder.journal import Header
from p2u.client.folder.pull_task import PullTask
from p2u.client.folder.target import journal_header
from p2u.client.routes import stretches
from p2u.client.routes.line import Held, measure, possible
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.package_reader import PackageReader
from p2u.package.manifest import Update, changed_files

#: Seconds for which nobody minds to wait for the last state without an earlier one.
SOON = 2.0
#: Bytes per second at which a state between is decoded and brought to the disk, about.
WRITE_RATE = 5e8


class Straight:
    """Chooses the stretches of one transfer.

    Args:
        package: Open.
        task: Says who waits for which states.

    Attributes:
        package: The package, which may be opened again.
        off: No stretch is straight any more.
        scarce: There is no room on the disk for the states between.
    """

    def __init__(self, package: PackageReader, task: PullTask) -> None:
        self.package = package
        self.off = self.scarce = False
        self._task = task
        self._lock = threading.Lock()
        #: By the index of the first update: choices that were made ahead.
        self._ahead: dict[str, Stretch] = {}

    def give_up(self) -> None:
        """An update has proved broken: make the states before it, to find out which it is."""
        self.off = True
        self._ahead.clear()

    def choose(self, rest: Sequence[Update], begun: Header | None = None) -> Stretch | None:
        """The next stretch; None if the line has to be measured first.

        Args:
            rest: The updates left of the route.
            begun: The header of the journal that an earlier run has left.

        Raises:
            The errors of reading indices.
        """
        with self._lock:
            known = self._ahead.pop(rest[0].index.sha256, None)
        if known is not None:
            return known
        single, whole = Stretch(tuple(rest[:1])), stretches.longest(self.package.manifest, rest)
        asked = self.package.options.straight
        if self.off or asked is False or not whole.straight:
            return single
        found = self.begun(rest, begun) if begun is not None else None
        if found is not None and (found.straight or not asked):
            return possible(self.package, found)
        if asked or self.scarce:
            return possible(self.package, whole)
        if self._task.each_state or self._task.deadline is not None:
            return single
        if not self.package.store.remote and self.package.options.limit_rate is None:
            return possible(self.package, whole)
        return None

    def choose_ahead(self, rest: Sequence[Update]) -> Stretch:
        """The stretch that `choose` will choose next, by the speed so far. In any thread."""
        found = self.choose(rest) or self._by_rate(rest, self.package.meter.rate())
        with self._lock:
            return self._ahead.setdefault(rest[0].index.sha256, found)

    def measure(
        self, rest: Sequence[Update], tick: Callable[[], bool | None]
    ) -> tuple[Stretch, Held]:
        """Choose by the speed of the line, measured with the first payloads that are wanted.

        Returns:
            The stretch, and payloads of its first update that are here now.

        Raises:
            The errors of `Fetcher.run`, and of reading indices.
        """
        held = Held()
        rate = measure(self.package, rest[0], held, lambda r: self._is_worth_it(rest, r), tick)
        return self._by_rate(rest, rate), held

    def _by_rate(self, rest: Sequence[Update], rate: float) -> Stretch:
        if self.package.store.supports_ranges and self._is_worth_it(rest, rate):
            return possible(self.package, stretches.longest(self.package.manifest, rest))
        return Stretch(tuple(rest[:1]))

    def _is_worth_it(self, rest: Sequence[Update], rate: float) -> bool:
        """Whether straight is the better choice on a line of so many bytes per second."""
        manifest = self.package.manifest
        stretch = stretches.longest(manifest, rest)
        seconds = sum(update.bytes for update in stretch.updates) / max(rate, 1.0)
        written = 0
        for update in stretch.updates[:-1]:
            files = manifest.release(update.target).files
            written += sum(files[n].size for n in changed_files(manifest, update))
        return seconds <= max(SOON, written / WRITE_RATE)

    def begun(self, rest: Sequence[Update], header: Header) -> Stretch | None:
        """The stretch, at the beginning of these updates, that a journal is about; None if none."""
        whole = stretches.longest(self.package.manifest, rest)
        for count in range(1, len(whole.updates) + 1):
            stretch = Stretch(tuple(rest[:count]))
            for in_place in (False, True):
                if journal_header(self.package.manifest, stretch, in_place=in_place) == header:
                    return stretch
        return None
