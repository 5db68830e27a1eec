"""Publish versions to one package, one after the other, and remove old ones (gc)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from p2u.errors import ConflictError, DiskError, FormatError, UsageError
from p2u.package.graph import find_path
from p2u.package.keys import keys
from p2u.package.manifest import Manifest, Release, State, Update, with_costs
from p2u.package.paths import MANIFEST_KEY
from p2u.packing.engines.choice import open_engine
from p2u.packing.package_folder.destination import Destination, NewDestination
from p2u.packing.package_folder.new_package import NewPackage, check_target
from p2u.packing.package_folder.open_package import OpenPackage
from p2u.packing.package_store.store_package import StorePackage
from p2u.packing.packer import Packer, generator
from p2u.packing.report import GcReport, PackProgress, PackReport
from p2u.packing.settings import PackSettings
from p2u.packing.versions.add_version import VersionAdder, VersionRequest
from p2u.packing.versions.parent import Parent
from p2u.stores.schemes import scheme_of

#: A version gets a base of its own, too, if the route to it would have this many times the bytes of
#: that to the last version that has one.
LONG_ROUTE = 2


def add_version(
    src: str, dst: str, settings: PackSettings, wanted: str, request: VersionRequest
) -> PackReport:
    """Add a version to a package, or make a package of one that has a parent elsewhere.

    Args:
        src: The model.
        dst: The package.
        settings: How to pack.
        wanted: The parent, see `Parents.find`.
        request: What is asked of the version.

    Raises:
        See `p2u.pack`.
    """
    target = Path(os.path.realpath(dst))
    with ExitStack() as stack:
        packer = Packer(src, settings, stack.enter_context(open_engine(settings)))
        destination: Destination
        if (target / MANIFEST_KEY).is_file():
            destination = stack.enter_context(OpenPackage(target))
        else:
            target = check_target(dst, src)
            package = stack.enter_context(NewPackage(target, replace=False, bits=packer.bits))
            empty = Manifest(packer.name, (), (), generator())
            destination = NewDestination(target, empty, package)
        adder = VersionAdder(destination, packer, settings, stack)
        return adder.add(adder.parents.find(wanted), request)


@dataclass(frozen=True, slots=True)
class AnchorPolicy:
    """When a published version gets a base of its own.

    Attributes:
        anchor: Whether this one does; None to go by the others.
        every: It does if it is this many versions behind the last one that does.
    """

    anchor: bool | None
    every: int

    def due(self, manifest: Manifest) -> bool:
        """Whether the next version of a package is to get one."""
        if self.anchor is not None:
            return self.anchor
        delivered = [release for release in manifest.releases if not release.foreign]
        based = anchors(manifest)
        numbers = [n for n, release in enumerate(delivered) if release.version in based]
        if not numbers or len(delivered) - numbers[-1] >= self.every:
            return True
        at_last, now = delivered[numbers[-1]].states[-1].bytes, delivered[-1].states[-1].bytes
        return at_last is None or now is None or now > LONG_ROUTE * at_last


def anchors(manifest: Manifest) -> set[str]:
    """The versions that have a base of their own."""
    return {manifest.release(u.target).version for u in manifest.updates if u.source is None}


def publish_next(
    src: str,
    dst: str,
    settings: PackSettings,
    policy: AnchorPolicy,
    request: VersionRequest,
    at_hand: str | None,
    expect: str | None,
) -> PackReport:
    """Publish a first version, or the next one; see `p2u.publish`."""
    with ExitStack() as stack:
        packer = Packer(src, settings, stack.enter_context(open_engine(settings)))
        package = _open(dst, stack, settings.progress)
        if package is None or (isinstance(package, StorePackage) and not package.exists):
            if expect is not None:
                raise ConflictError(
                    f"there is no package, but its newest state was expected to be {expect}",
                    file=dst,
                )
            return _first(packer, src, dst, package)
        adder = VersionAdder(package, packer, settings, stack)
        newest = adder.parents.newest()
        if expect is not None and newest.id != expect:
            raise ConflictError(
                f"its newest state is {newest.id}, expected {expect}",
                file=dst,
                hint="Another publisher uses this package: use one of your own",
            )
        if adder.is_same(newest, replace(request, also_base=policy.anchor is True)):
            return adder.unchanged(newest)
        parent = _given(adder, newest, at_hand) or adder.parents.decoded(newest)
        also_base = request.also_base or policy.due(package.manifest)
        return adder.add(parent, replace(request, also_base=also_base))


def _open(
    dst: str, stack: ExitStack, progress: Callable[[PackProgress], None] | None = None
) -> OpenPackage | StorePackage | None:
    """The package at a path or URL; None if there is no package in a folder."""
    if scheme_of(dst) is not None:
        return stack.enter_context(StorePackage(dst, progress))
    target = Path(os.path.realpath(dst))
    if not (target / MANIFEST_KEY).is_file():
        return None
    return stack.enter_context(OpenPackage(target))


def _first(packer: Packer, src: str, dst: str, package: StorePackage | None) -> PackReport:
    """Publish a first version."""
    if package is None:
        return packer.run(check_target(dst, src))
    manifest, offsets = packer.first(package.stage, package.place("", packer.engine))
    package.commit_first(manifest)
    packer.report_progress("publish", packer.total)
    return packer.report(manifest, manifest.latest.version, offsets)


def _given(adder: VersionAdder, newest: State, path: str | None) -> Parent | None:
    """The newest state from a directory, if that is what it holds."""
    if path is None:
        return None
    try:
        found = adder.parents.given(path)
    except (DiskError, FormatError):
        return None  # the package has it, too
    return found if found.known and found.state == newest else None


def collect(dst: str, keep: int, old_anchors: int | None, grace: float, dry_run: bool) -> GcReport:
    """Drop old versions; see `p2u.gc`."""
    with ExitStack() as stack:
        package = _open(dst, stack) or stack.enter_context(OpenPackage(Path(os.path.realpath(dst))))
        before = package.manifest
        after = without_old(before, keep, old_anchors)
        gone = keys(before) - keys(after)
        size = package.size_of(gone)
        versions = [release.version for release in after.releases]
        dropped = [r.version for r in before.releases if r.version not in versions]
        report = GcReport(
            tuple(versions),
            tuple(dropped),
            len(before.updates) - len(after.updates),
            len(gone),
            size,
        )
        if not dry_run and after != before:
            package.commit(after, None, grace)
    return report


def without_old(manifest: Manifest, keep: int, old_anchors: int | None) -> Manifest:
    """A manifest without old versions and the updates that only they need.

    These stay: the newest versions, the routes to them from nothing, older versions with a base of
    their own and the routes to these, and foreign ones that an update leads from to one of them.

    Args:
        manifest: The package.
        keep: How many of the newest versions.
        old_anchors: How many of the older ones with a base, the newest of them; None for all.
    """
    delivered = [release for release in manifest.releases if not release.foreign]
    wanted = delivered[-keep:]
    based = anchors(manifest)
    older = [release for release in delivered[:-keep] if release.version in based]
    wanted += older if old_anchors is None else older[len(older) - min(old_anchors, len(older)) :]
    stay = {release.version for release in wanted}
    for release in wanted:
        for state in release.states:
            stay |= {manifest.release(u.target).version for u in _route(manifest, state)}
    updates = [u for u in manifest.updates if _between(manifest, u, stay)]
    sources = {manifest.release(u.source).version for u in updates if u.source is not None}
    releases = tuple(
        release
        for release in manifest.releases
        if release.version in stay or (release.foreign and release.version in sources)
    )
    return with_costs(replace(manifest, releases=releases, updates=tuple(updates)))


def _route(manifest: Manifest, state: State) -> Iterable[Update]:
    """The route to a state from nothing, or from a foreign state if there is no other."""
    if state.bytes is not None:
        return find_path(manifest.updates, None, state.id)
    later = [update for update in manifest.updates if update.source is not None]
    for source in manifest.states:
        if manifest.release(source).foreign:
            with suppress(UsageError):
                return find_path(later, source.id, state.id)
    return ()


def _between(manifest: Manifest, update: Update, stay: set[str]) -> bool:
    """Whether an update is between versions that stay, or from a foreign one to one of them."""
    if manifest.release(update.target).version not in stay:
        return False
    if update.source is None:
        return True
    source: Release = manifest.release(update.source)
    return source.foreign or source.version in stay
