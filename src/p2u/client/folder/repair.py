"""Make the damaged or missing files of a folder anew, and fetch only what they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2u.client.folder.build_and_swap import BuildAndSwap
from p2u.client.folder.local import FoundState
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.routes import stretches
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Bundle
from p2u.client.transfer.checking import ALL
from p2u.client.transfer.package_reader import PackageReader
from p2u.package.geometry import chunk_spans


class Repair(BuildAndSwap):
    """A stretch from nothing to the state that the target holds but for some files.

    Args:
        package: Where it comes from.
        work: The work folder, locked.
        stretch: From nothing to that state.
        parent: The state; the files that are not damaged are kept.
        damaged: Numbers of the others.
    """

    def __init__(
        self,
        package: PackageReader,
        work: WorkFolder,
        stretch: Stretch,
        parent: FoundState,
        damaged: Sequence[int],
    ) -> None:
        super().__init__(package, work, stretch, parent, ALL)
        self.make(dict.fromkeys(damaged, True))
        #: Bundles that no damaged file needs.
        self._needless = [bundle for bundle in self.bundles if not self._needs(bundle)]

    def _needs(self, bundle: Bundle) -> bool:
        return any(map(self.makes, chunk_spans(bundle.chunks[0], self.layout)))

    @property
    def missing(self) -> int:
        """Bytes to fetch if nothing is here."""
        needless = sum(bundle.length for bundle in self._needless)
        return sum(bundle.length for bundle in self.bundles) - needless

    def start(self, done: Sequence[int]) -> list[Bundle]:
        """See `Target.start`."""
        return super().start([*done, *(bundle.number for bundle in self._needless)])


def repair(target: Repair, tick: Callable[[], bool | None]) -> None:
    """Make the target whole.

    Raises:
        The errors of `Fetcher.run` and of `Target.finish`.
    """
    try:
        wanted = stretches.wanted(target.package, target.stretch, target.prepare())
        target.package.fetcher.run(wanted, target.apply, tick)
        target.finish()
    finally:
        target.close()
