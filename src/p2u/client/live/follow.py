"""Follow a package: bring a live model to each newer version, with one commit each."""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass, field

from p2u.client.live.applying import Applier
from p2u.client.live.parts import LiveParts
from p2u.client.live.places import Placed, Ranges
from p2u.client.live.staging.chained import ChainedUpdate
from p2u.client.live.staging.moved import Origin, cross, place
from p2u.client.routes.live_routes import (
    LiveRoute,
    candidates,
    find_live_route,
    same_state,
)
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import single_bundles
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    P2UError,
    UnsupportedError,
    UsageError,
)
from p2u.package.lookup import find_wanted
from p2u.package.manifest import Manifest, State, Update

_log = logging.getLogger("p2u")


@dataclass(frozen=True, slots=True)
class _Verdict:
    """An error that nothing but another manifest can mend."""

    error: P2UError
    manifest: Manifest


@dataclass(slots=True)
class _Chain:
    """A route that is under way.

    Attributes:
        route: The route.
        number: Place on it of the update that is being fetched.
        step: That update; None until it is begun.
        covered: Bytes that the updates before have brought.
        reached: The release that they have led to; None before the first one.
        ready: All of it is staged, and waits for `Follower.commit`.
    """

    route: LiveRoute
    number: int = 0
    step: ChainedUpdate | None = None
    covered: Ranges = field(default_factory=dict)
    reached: Placed | None = None
    ready: bool = False

    @property
    def update(self) -> Update:
        """The update that is being fetched."""
        return self.route.updates[self.number]

    @property
    def later(self) -> tuple[Update, ...]:
        """The updates after it."""
        return self.route.updates[self.number + 1 :]


class Follower:
    """Moves the memory of a live model from version to version.

    A new version is gathered in memory of its own, its files are checked, and only then it takes
    the place of the old one. Therefore any error before leaves the model as it is.

    Args:
        parts: Of the model, which has its first route behind it when `advance` is called.
        applier: Of its memory.
    """

    def __init__(self, parts: LiveParts, applier: Applier) -> None:
        self._plan = parts.plan
        self._connection = parts.connection
        self._status = parts.status
        self._listeners = parts.listeners
        self._applier = applier
        self._verdict: _Verdict | None = None
        self._mark = ""
        #: Errors of updates that do not lead where they should, by the digest of their index.
        self._bad: dict[str, P2UError] = {}
        #: Digests of states known before the one here, so that an old manifest is recognised.
        self._past: set[str] = set()
        self._chain: _Chain | None = None
        #: Check the files after each update of a chain, not only at its end.
        self._check_each = False
        #: The version or state asked for; None: the newest.
        self._asked: str | None = None
        #: The state and the release that the last commit has replaced, if they were kept.
        self._replaced: tuple[ChainedUpdate, State, Placed] | None = None
        #: Whether the version asked for was not in the manifest.
        self.unknown = False

    @property
    def package_error(self) -> P2UError | None:
        """The error that keeps the newest version of the present manifest away, for good."""
        return self._verdict.error if self._verdict else None

    @property
    def broken(self) -> bool:
        """Whether the present update is broken: trying again would fail again."""
        step = self._chain.step if self._chain else None
        return step is not None and step.broken

    def give_up(self, error: P2UError, manifest: Manifest) -> None:
        """Wait for another manifest."""
        self._verdict = _Verdict(error, manifest)

    def ask(self, version: str | None) -> None:
        """Let the next `advance` stage another version; no thread runs.

        Args:
            version: Its name, or the id of a state; None: the newest.
        """
        if version != self._asked or self.staged is not None or self._replaced is not None:
            self._replaced = None
            self.drop()
        self._asked, self.unknown, self._verdict = version, False, None

    @property
    def staged(self) -> tuple[ChainedUpdate, State] | None:
        """The update that waits for its commit, and the state it leads to; no thread runs."""
        chain = self._chain
        if chain is None or not chain.ready or chain.step is None:
            return None
        return chain.step, chain.route.target

    def commit(self, *, keep: bool) -> None:
        """Let the memory be what is staged; no thread runs.

        Args:
            keep: Keep what it was, for `rollback`.

        Raises:
            The errors of `Applier.commit`.
        """
        assert self.staged is not None
        step, target = self.staged
        before = step, self._here(), step.files.here
        if keep:
            self._applier.exchange(step, target, step.target)
        else:
            self._applier.commit(step, target)
        self._settle(target, keep=keep)
        self._replaced = before if keep else None

    def rollback(self) -> None:
        """Let the memory be what it was before the last commit; no thread runs.

        Raises:
            UsageError: That was not kept.
            The errors of `Applier.exchange`.
        """
        if self._replaced is None:
            raise UsageError("the state before was not kept", hint="Use commit(keep=True)")
        step, state, placed = self._replaced
        self._applier.exchange(step, state, placed)
        self._replaced = None
        self._settle(state, keep=False)

    def advance(self) -> None:
        """Look for a newer version, and go on to it if there is one.

        An error of the package is left in `package_error`.

        Raises:
            StoreError, IntegrityError: Trying again later may help; all that was fetched is kept.
            Cancelled: The transfer was cancelled.
            The error that has left the memory without a valid state.
        """
        package = self._connection.package
        self._note(package.manifest)
        self._mark = package.renew(self._mark)
        if self._verdict is not None and package.manifest == self._verdict.manifest:
            return
        self._verdict = None
        self._keep_chain(package.manifest)
        missing: set[str] = set()
        first: P2UError | None = None
        late: P2UError | None = None
        while True:
            package = self._connection.package
            try:
                chain = self._chain or self._find(package, missing)
            except UnsupportedError as error:
                if late is not None:
                    raise late from None
                self.give_up(first or self._reason(package.manifest) or error, package.manifest)
                return
            if chain is None:
                return
            try:
                self._go(package, chain)
                if chain.ready:
                    return
            except (IntegrityError, FormatError, UnsupportedError, NotFoundError) as error:
                self._status.check_memory()
                if not self._dismiss(chain, error, missing):
                    late = late or error
                first = first or error
                self._connection.renew()

    def _dismiss(self, chain: _Chain, error: P2UError, missing: set[str]) -> bool:
        """Drop a route, and note which update is to blame; return whether it is so for good."""
        here = chain.update.index.sha256
        for_good = isinstance(error, UnsupportedError) or self.broken
        if for_good:
            several = len(chain.route.updates) > 1
            if several and isinstance(error, IntegrityError) and not self._check_each:
                self._check_each = True  # once more, to see which of them it is
            else:
                self._bad[here] = error
        else:
            # A blob that is damaged or not there: it may be mended without a new manifest.
            missing.add(here)
        self.drop()
        return for_good

    def _reason(self, manifest: Manifest) -> P2UError | None:
        """The error of an update that could not be used."""
        found = [u.index.sha256 for u in manifest.updates if u.index.sha256 in self._bad]
        return self._bad[found[-1]] if found else None

    def _here(self) -> State:
        state = self._status.state
        assert state is not None
        return state

    def _note(self, manifest: Manifest) -> None:
        """Remember which states come before the one here."""
        have = self._here()
        digests = [state.digest for state in manifest.states]
        if have.digest in digests:
            self._past |= set(digests[: digests.index(have.digest)])

    def _find(self, package: PackageReader, missing: Set[str]) -> _Chain | None:
        """The route to the newest version that can be reached; None if it is here.

        Raises:
            UnsupportedError: There are newer ones, but no route to any of them.
        """
        have, manifest = self._here(), package.manifest
        wanted = self._wanted(manifest, have)
        past = wanted and same_state(manifest, have) is None and wanted[0].digest in self._past
        if past and self._asked is None:
            return None  # an old manifest, from a cache between
        why: UnsupportedError | None = None
        for want in wanted:
            try:
                files, bad = self._applier.files, self._bad.keys() | missing
                mine = files.here.model
                route = find_live_route(package, mine, files.used_here(), have, want, bad)
            except UnsupportedError as error:
                why = why or error
                continue
            self._chain = _Chain(route)
            ids = [*route.passed, route.target.id]
            _log.debug("%s: from %s to %s, %d bytes", package.url, have.id, want.id, route.cost)
            states = self._status.route.follow(ids, package.meter.done + route.cost)
            self._status.on_route(states)
            return self._chain
        if why is not None:
            raise why
        return None

    def _wanted(self, manifest: Manifest, have: State) -> list[State]:
        """The states to go on to, the best one first; none if it is here."""
        if self._asked is None:
            return candidates(manifest, have, self._plan.until)
        names = [name for state in manifest.states for name in (state.id, state.version)]
        self.unknown = self._asked not in names
        if self.unknown:
            return []
        found = find_wanted(manifest, self._asked)
        return [] if found.digest == have.digest else [found]

    def _keep_chain(self, manifest: Manifest) -> None:
        """Go on with the route that is under way unless the package has lost its updates."""
        if self._chain and not set(self._chain.route.updates) <= set(manifest.updates):
            self.drop()

    def drop(self) -> None:
        """Free what the route under way holds."""
        self._chain = None
        self._applier.drop_spare()

    def _go(self, package: PackageReader, chain: _Chain) -> None:
        self._applier.files.manifest = package.manifest
        while True:
            step = chain.step = chain.step or self._begin(package, chain)
            later = [Stretch((update,)) for update in chain.later[:1]]
            self._applier.fetch(step, later, low_priority=True)
            if not chain.later:
                break
            chain.covered, chain.reached = step.covered, step.target
            chain.step = None
            chain.number += 1
        if self._plan.hold:
            chain.ready = True
            return
        self._applier.commit(step, chain.route.target)
        self._settle(chain.route.target, keep=False)

    def _settle(self, state: State, *, keep: bool) -> None:
        """The memory has become another state."""
        self._note(self._applier.files.manifest)
        self._check_each = False
        if keep:
            self._chain = None
        else:
            self.drop()
        self._listeners.announce(state)

    def _begin(self, package: PackageReader, chain: _Chain) -> ChainedUpdate:
        files, update = self._applier.files, chain.update
        index = package.index(update)
        origin = None if update.source is None else (chain.reached or files.here)
        return cross(
            files,
            update,
            index,
            place(files, package.target(update), origin, index),
            origin=None if origin is None else Origin(origin, files.regions),
            bundles=single_bundles(index.chunks),
            check=self._plan.check,
            tools=self._plan.tools,
            source=chain.route.source,
            before=chain.covered,
            checked=self._check_each or not chain.later,
        )
