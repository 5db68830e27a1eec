"""Stretches: the parts of a route that are made at once, one update or straight several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2u.client.transfer.bundles import Bundle, Wanted, common_bundles, single_bundles
from p2u.client.transfer.package_reader import PackageReader
from p2u.package.geometry import chunk_spans
from p2u.package.manifest import Manifest, Update


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
    """Every stretch that a route may have."""
    for first in manifest.updates:
        yield from _continued(manifest, (first,))


def _continued(manifest: Manifest, updates: tuple[Update, ...]) -> Iterator[Stretch]:
    yield Stretch(updates)
    if manifest.crosses(updates[0]):
        return
    for update in manifest.updates:
        if update.source == updates[-1].target and not manifest.crosses(update):
            yield from _continued(manifest, (*updates, update))


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
