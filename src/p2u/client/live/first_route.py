"""Run the first route of a live model: from nothing to the state wanted, one commit each."""

from __future__ import annotations

from collections.abc import Sequence

from p2u.client.live.applying import Applier
from p2u.client.live.parts import LiveParts
from p2u.client.live.staging.choice import STAGING, choose
from p2u.client.live.staging.staged_update import StagedUpdate
from p2u.client.routes import stretches
from p2u.client.routes.line import Held, measure, possible
from p2u.client.routes.live_routes import check_aligned, first_route
from p2u.client.routes.stretches import Stretch
from p2u.package.manifest import Update

#: Seconds in which the last state has to come for those before it to be left out.
SOON = 1.0


class FirstRoute:
    """Brings state after state into memory, in as many attempts as it takes.

    Args:
        parts: Of the model.
        applier: Of its memory.
    """

    def __init__(self, parts: LiveParts, applier: Applier) -> None:
        self._plan = parts.plan
        self._connection = parts.connection
        self._status = parts.status
        self._listeners = parts.listeners
        self._applier = applier
        self._route: tuple[Stretch, ...] | None = None
        self._done = 0
        self._step: StagedUpdate | None = None
        #: Payloads with which the line was measured.
        self._held = Held()

    @property
    def complete(self) -> bool:
        """Whether its end is reached."""
        return self._route is not None and self._done == len(self._route)

    @property
    def broken(self) -> bool:
        """Whether the present update is broken: trying again would fail again."""
        return self._step is not None and self._step.broken

    def run(self) -> None:
        """Go on from where the last attempt ended, to the end.

        Raises:
            P2UError: The attempt has failed; all that was fetched is kept.
        """
        if self.complete:
            return
        if self._route is None:
            self._route = self._find()
        while self._done < len(self._route):
            stretch = self._route[self._done]
            later = self._route[self._done + 1 :]
            state = self._connection.package.manifest.state(stretch.target)
            self._status.on_route(self._status.route.fetch(state.label))
            first = stretch.source is None
            step = self._step = self._step or self._begin(stretch)
            low_priority = self._plan.low_priority and not first
            held, self._held = self._held, Held()
            self._applier.fetch(step, later, held, low_priority=low_priority)
            self._applier.commit(step, state, first=first)
            self._step = None
            self._listeners.announce(state)
            self._done += 1
        self.drop()

    def end_here(self) -> None:
        """Give the rest of the route up: the last state reached is its end."""
        self.drop()
        self._route = (self._route or ())[: self._done]
        states = sum(len(stretch.updates) for stretch in self._route)
        self._status.on_route(self._status.route.shorten(states))

    def drop(self) -> None:
        """Free what the present update holds."""
        self._step = None
        self._held.clear()
        self._applier.drop_spare()

    def _find(self) -> tuple[Stretch, ...]:
        package = self._connection.package
        route = first_route(package, self._plan.until)
        package.look_ahead(route[0])
        # The states that are left out are reached, too: by a better one.
        ids = [update.target for update in route]
        marks = [
            (package.manifest.state(update.target).label, at)
            for update, (_, at) in zip(route, package.marks(route), strict=True)
        ]
        self._status.on_route(self._status.route.begin(ids, tuple(marks)))
        found = self._stretches(route)
        targets = {stretch.target for stretch in found}
        kept = [mark for state, mark in zip(ids, marks, strict=True) if state in targets]
        self._status.on_route(self._status.route.begin(ids, tuple(kept)))
        return found

    def _stretches(self, route: Sequence[Update]) -> tuple[Stretch, ...]:
        """The route in stretches."""
        package, found = self._connection.package, []
        straight = self._plan.straight
        if straight is None:
            straight = self._is_fast(route)
        while route:
            stretch = Stretch(tuple(route[:1]))
            if straight:
                stretch = possible(package, stretches.longest(package.manifest, route))
            found.append(stretch)
            route = route[len(stretch.updates) :]
        return tuple(found)

    def _is_fast(self, route: Sequence[Update]) -> bool:
        """Whether the first state would come hardly sooner than the last one of its version."""
        package = self._connection.package
        whole = stretches.longest(package.manifest, route)
        if not package.store.remote or not whole.straight or route[0].source is not None:
            return False
        size = sum(update.bytes for update in whole.updates)

        def is_enough(rate: float) -> bool:
            return size <= SOON * rate

        rate = measure(package, route[0], self._held, is_enough)
        return package.store.supports_ranges and is_enough(rate)

    def _begin(self, stretch: Stretch) -> StagedUpdate:
        package, plan = self._connection.package, self._plan
        manifest = package.manifest
        check_aligned(package, stretch.updates[0])
        bundles = stretches.bundles(package, stretch)
        assert bundles is not None
        files = self._applier.allocate(manifest.release(stretch.target))
        staging = plan.staging
        if stretch.source is None or plan.mode == "eager":
            staging = "direct"
        elif manifest.crosses(stretch.updates[0]):
            staging = "copy"
        elif plan.choose is not None:
            staging = plan.choose(files.layout)
        if staging == "auto":
            staging = choose(bundles, files.layout, plan.tools.free_memory())
        return STAGING[staging](files, stretch, bundles, plan.check, plan.tools)
