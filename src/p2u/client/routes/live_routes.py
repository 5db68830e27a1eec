"""Choose the route of a live model to the newest state, along releases of the same tensors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from p2u.client.routes.pairing import misfit
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import UnsupportedError, UsageError
from p2u.package.graph import find_path, leads_to
from p2u.package.layout import ReleaseLayout
from p2u.package.lookup import find_wanted
from p2u.package.manifest import Manifest, State, Update

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


def first_route(manifest: Manifest, until: str) -> tuple[Update, ...]:
    """The cheapest route from nothing to a state.

    Args:
        manifest: The package's.
        until: Id, version or label; see `find_wanted`.

    Raises:
        UsageError: There is no such state, or no route to it.
    """
    want = find_wanted(manifest, until)
    return find_path(manifest.updates, None, want.id, cost=manifest.cost)


def find_live_route(
    package: PackageReader,
    mine: ReleaseLayout,
    used: Collection[int] | None,
    have: State,
    want: State,
    bad: Collection[str],
) -> LiveRoute:
    """The cheapest route to a newer state; the versions on the way may have any tensors.

    Args:
        package: Open, with the newest manifest.
        mine: The release in memory, and its layout.
        used: Numbers of its tensors that count; see `misfit`.
        have: The state in memory.
        want: One of `candidates`.
        bad: Digests of the indices of updates to avoid.

    Raises:
        UnsupportedError: Its tensors are not those of the model, or no good update leads there.
        The errors of reading layouts.
    """
    manifest, here = package.manifest, same_state(package.manifest, have)
    why = misfit(mine, package.model(manifest.release(want)), used)
    if why is not None:
        raise UnsupportedError(
            f"{want.version} cannot take the place of {have.version}: {why}", hint=HINT
        )
    updates = [update for update in manifest.updates if update.index.sha256 not in bad]
    try:
        route = find_path(updates, here.id if here else None, want.id, cost=manifest.cost)
    except UsageError:
        raise UnsupportedError(
            f"no usable update of this package leads from {have.id} to {want.id}", hint=HINT
        ) from None
    return _live_route(manifest, route, here, want)


def _live_route(
    manifest: Manifest, route: tuple[Update, ...], here: State | None, want: State
) -> LiveRoute:
    versions = [release.version for release in manifest.releases]
    begin = versions.index(here.version) if here else -1
    between = manifest.releases[begin + 1 : versions.index(want.version)]
    passed = tuple(release.states[-1].id for release in between if not release.foreign)
    cost = sum(manifest.cost(update) for update in route)
    return LiveRoute(route, here.id if here else None, want, passed, cost)
