"""Choose the route of a live model to the newest state: one along which no tensor moves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from p2u.client.routes.routes import MOST_BROKEN
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import UnsupportedError, UsageError
from p2u.package.graph import find_path, leads_to
from p2u.package.layout import ReleaseLayout, Tensor
from p2u.package.lookup import find_wanted
from p2u.package.manifest import Manifest, Release, State, Update

HINT = "Load it anew to have it; until then the model answers at its state"


@dataclass(frozen=True, slots=True)
class LiveRoute:
    """A route with one commit at its end.

    Attributes:
        updates: In order; the first one may begin at nothing.
        source: Id of the state that the model has; None if the package lacks it.
        target: The state at the end.
        passed: Ids of the last states of the versions between, which the model does not take.
        cost: Bytes to fetch.
    """

    updates: tuple[Update, ...]
    source: str | None
    target: State
    passed: tuple[str, ...]
    cost: int


def candidates(manifest: Manifest, have: State, until: str) -> list[State]:
    """States to follow to, the newest first; none if the newest is here.

    Each later version has one: its state with the label ``until``, or else its last one.
    """
    here = same_state(manifest, have)
    found: list[State] = []
    for release in reversed(manifest.releases):
        if release.foreign:
            continue
        want = next((s for s in release.states if s.label == until), release.states[-1])
        if want.digest == have.digest:
            break
        if here is not None and leads_to(manifest.updates, want.id, here.id):
            break
        found.append(want)
        if here is not None and release.version == here.version:
            break
    return found


def same_state(manifest: Manifest, have: State) -> State | None:
    """The state of a package that has the same bytes; its name may be another one."""
    found = [state for state in manifest.states if state.digest == have.digest]
    return next((state for state in found if state.id == have.id), found[-1] if found else None)


def first_route(package: PackageReader, until: str) -> tuple[Update, ...]:
    """The cheapest route from nothing to a state along which no tensor moves.

    Args:
        package: Open.
        until: Id, version or label; see `find_wanted`.

    Raises:
        UsageError: There is no such state.
        UnsupportedError: Versions on the route have other tensors.
        The errors of reading layouts.
    """
    return _memory_route(package, find_wanted(package.manifest, until))


def _memory_route(package: PackageReader, want: State) -> tuple[Update, ...]:
    manifest, updates = package.manifest, list(package.manifest.updates)
    why = ""
    for _ in range(MOST_BROKEN):
        try:
            route = find_path(updates, None, want.id, cost=manifest.cost)
        except UsageError:
            if not why:
                raise
            break
        for update in route:
            if not manifest.crosses(update):
                continue
            source, target = package.source(update), package.target(update)
            found = None if source is None else difference(source, target)
            if found is not None:
                why = f"from {update.source} to {update.target}, {found}"
                updates.remove(update)
                break
        else:
            return route
    raise UnsupportedError(
        f"there is no route to {want.id} in memory: {why}",
        hint="Pull it to a folder, and load the folder",
    )


def find_live_route(
    package: PackageReader, mine: ReleaseLayout, have: State, want: State, bad: Collection[str]
) -> LiveRoute:
    """The cheapest route to a newer state.

    Args:
        package: Open, with the newest manifest.
        mine: The release in memory, and its layout.
        have: The state in memory.
        want: One of `candidates`.
        bad: Digests of the indices of updates to avoid.

    Raises:
        UnsupportedError: Its tensors are not those of the model, or no good update leads there.
        The errors of reading layouts.
    """
    manifest, here = package.manifest, same_state(package.manifest, have)
    why = difference(mine, package.model(manifest.release(want)))
    if why is not None:
        raise UnsupportedError(
            f"{want.version} cannot take the place of {have.version}: {why}", hint=HINT
        )
    misfits: set[str] = set()
    for _ in range(MOST_BROKEN):
        updates = [
            update
            for update in manifest.updates
            if update.index.sha256 not in bad
            and not any(release.version in misfits for release in _ends(manifest, update))
        ]
        try:
            route = find_path(updates, here.id if here else None, want.id, cost=manifest.cost)
        except UsageError:
            break
        found = {
            release.version
            for release in (manifest.release(update.target) for update in route)
            if difference(mine, package.model(release)) is not None
        }
        if not found:
            return _live_route(manifest, route, here, want)
        misfits |= found
    raise UnsupportedError(
        f"no usable update of this package leads from {have.id} to {want.id}", hint=HINT
    )


def _ends(manifest: Manifest, update: Update) -> list[Release]:
    return [manifest.release(s) for s in (update.source, update.target) if s is not None]


def _live_route(
    manifest: Manifest, route: tuple[Update, ...], here: State | None, want: State
) -> LiveRoute:
    versions = [release.version for release in manifest.releases]
    begin = versions.index(here.version) if here else -1
    between = manifest.releases[begin + 1 : versions.index(want.version)]
    passed = tuple(release.states[-1].id for release in between if not release.foreign)
    cost = sum(manifest.cost(update) for update in route)
    return LiveRoute(route, here.id if here else None, want, passed, cost)


def check_aligned(package: PackageReader, update: Update) -> None:
    """Make sure that an update moves no tensor.

    Raises:
        UnsupportedError: It moves some.
    """
    if package.manifest.crosses(update) and not package.aligned(update):
        raise UnsupportedError(
            f"the update from {update.source} to {update.target} moves tensors",
            file=update.index.key,
            hint=HINT,
        )


def difference(old: ReleaseLayout, new: ReleaseLayout) -> str | None:
    """The reason why two releases cannot use the same memory; None if they can."""
    if old.release is new.release:
        return None
    mine, theirs = ({(t.file, t.name): t for t in model.tensors} for model in (old, new))
    for key in [*mine, *theirs]:
        was, now = (_shape(found.get(key)) for found in (mine, theirs))
        if was != now:
            return f"tensor {key[1]!r} was {was}, now {now}"
    before, after = ({f.path: f.size for f in model.files} for model in (old, new))
    for path in [*before, *after]:
        if before.get(path) != after.get(path):
            was, now = (_size(found.get(path)) for found in (before, after))
            return f"the file {path} was {was}, now {now}"
    if list(before) != list(after) or old.layout != new.layout:
        return "its tensors lie elsewhere in the files"
    return None


def _shape(tensor: Tensor | None) -> str:
    if tensor is None:
        return "not there"
    return f"{tensor.dtype} {' x '.join(map(str, tensor.shape)) or 'scalar'}"


def _size(size: int | None) -> str:
    return "not there" if size is None else f"{size} bytes"
