"""Stretches: the parts of a route that are made at once, one update or straight several."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2u.client.transfer.bundles import Bundle, Wanted, common_bundles, single_bundles
from p2u.client.transfer.package_reader import PackageReader
from p2u.package.geometry import chunk_spans
from p2u.package.manifest import Manifest, Update

#: Stretches that a journal is compared with. A package of a stranger's may have far more.
MOST_STRETCHES = 1 << 14


@dataclass(frozen=True, slots=True)
class Stretch:
    """Updates in order, of which only the last one's target is made."""

    updates: tuple[Update, ...]

    @property
    def source(self) -> str | None:
        """Id of the state that it begins at; None for nothing."""
        return self.updates[0].source

    @property
    def target(self) -> str:
        """Id of the state that it leads to."""
        return self.updates[-1].target

    @property
    def straight(self) -> bool:
        """Whether it leaves states out."""
        return len(self.updates) > 1

    @property
    def passed(self) -> tuple[str, ...]:
        """Ids of the states that it leaves out."""
        return tuple(update.target for update in self.updates[:-1])


def longest(manifest: Manifest, route: Sequence[Update]) -> Stretch:
    """The most updates at the beginning of a route that can be one stretch.

    All of them lead to states of one release, and none comes from another release: such updates
    hold the same rows, as far as the manifest shows.
    """
    count = 1
    if not manifest.crosses(route[0]):
        release = manifest.release(route[0].target)
        while count < len(route) and manifest.release(route[count].target) is release:
            count += 1
    return Stretch(tuple(route[:count]))


def all_stretches(manifest: Manifest) -> Iterator[Stretch]:
    """Every stretch that a route may have, short ones first; not more than `MOST_STRETCHES`."""
    leaving: dict[str, list[Update]] = {}
    for update in manifest.updates:
        if update.source is not None and not manifest.crosses(update):
            leaving.setdefault(update.source, []).append(update)
    left: deque[tuple[Update, ...]] = deque((update,) for update in manifest.updates)
    for _ in range(MOST_STRETCHES):
        if not left:
            return
        updates = left.popleft()
        yield Stretch(updates)
        if len(left) < MOST_STRETCHES and not manifest.crosses(updates[0]):
            left.extend((*updates, after) for after in leaving.get(updates[-1].target, ()))


def bundles(package: PackageReader, stretch: Stretch) -> tuple[Bundle, ...] | None:
    """The bundles of a stretch; None if its updates cut the model in different ways.

    Raises:
        The errors of reading indices.
    """
    levels = [package.index(update).chunks for update in stretch.updates]
    return common_bundles(levels) if stretch.straight else single_bundles(levels[0])


def wanted(
    package: PackageReader,
    stretch: Stretch,
    missing: Sequence[Bundle],
    held: dict[tuple[int, int], bytearray] | None = None,
) -> Wanted:
    """What a run fetches for a stretch.

    Args:
        package: Open.
        stretch: The stretch.
        missing: Of its bundles.
        held: Payloads that are here, see `Wanted`.
    """
    blobs = tuple(update.blobs for update in stretch.updates)
    if not stretch.straight:
        return Wanted(blobs, tuple(missing), held or {})
    layout = package.target(stretch.updates[0]).layout

    def place(bundle: Bundle) -> tuple[int, int]:
        # A file's digest is taken from its beginning on, so that is what comes first.
        span = chunk_spans(bundle.chunks[0], layout)[0]
        return span.file, span.offset

    return Wanted(blobs, tuple(missing), held or {}, place)


def all_wanted(package: PackageReader, stretch: Stretch) -> Wanted:
    """What a run fetches for a stretch of which nothing is here."""
    found = bundles(package, stretch)
    assert found is not None, "whoever chose the stretch has looked at its bundles"
    return wanted(package, stretch, found)
