"""Run the first route of a live model: from nothing to the state wanted, one commit each."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from p2u.client.live.applying import Applier
from p2u.client.live.memory import ModelMemory
from p2u.client.live.parts import LiveParts
from p2u.client.live.places import Placed
from p2u.client.live.staging.choice import STAGING, choose
from p2u.client.live.staging.moved import Origin, cross, place
from p2u.client.live.staging.staged_update import StagedUpdate
from p2u.client.routes import stretches
from p2u.client.routes.line import Held, measure, possible
from p2u.client.routes.live_routes import first_route
from p2u.client.routes.pairing import misfit
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import single_bundles
from p2u.package.manifest import Update

_log = logging.getLogger("p2u")

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
        #: How many stretches lead to states of other tensors, which nobody can use.
        self._hidden = 0
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
            if self._done < self._hidden:
                self._applier.pass_by(step)
            else:
                self._applier.commit(step, state, first=self._status.state is None)
                self._listeners.announce(state)
            self._step = None
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
        route = first_route(package.manifest, self._plan.until)
        package.look_ahead(route[0])
        count = self._unusable(route)
        usable, skipped = route[count:], [update.target for update in route[:count]]
        # The states that are left out are reached, too: by a better one.
        ends = dict(zip((u.target for u in route), package.marks(route), strict=True))
        ids = [update.target for update in usable]
        marks = [(package.manifest.state(id_).label, ends[id_][1]) for id_ in ids]
        self._status.on_route(self._status.route.begin(ids, tuple(marks), skipped))
        found = self._stretches(route)
        targets = {stretch.target for stretch in found}
        self._hidden = sum(stretch.target not in ids for stretch in found)
        steps = [stretch.target for stretch in found]
        _log.debug("%s: the route makes %s", package.url, ", ".join(steps))
        kept = [mark for state, mark in zip(ids, marks, strict=True) if state in targets]
        self._status.on_route(self._status.route.begin(ids, tuple(kept), skipped))
        return found

    def _unusable(self, route: Sequence[Update]) -> int:
        """How many updates lead to states whose tensors are others than those at the end."""
        package, count = self._connection.package, 0
        for number, update in enumerate(route):
            source = package.source(update) if package.manifest.crosses(update) else None
            if source is not None and misfit(source, package.target(update)) is not None:
                count = number
        return count

    def _stretches(self, route: Sequence[Update]) -> tuple[Stretch, ...]:
        """The route in stretches."""
        package, found = self._connection.package, []
        straight = self._plan.straight
        if straight is None and (count := self._cached(route)):
            # The best state that is here comes first, and the line decides nothing about the rest.
            found.append(possible(package, Stretch(tuple(route[:count]))))
            route = route[len(found[0].updates) :]
            straight = False
        elif straight is None:
            straight = self._is_fast(route)
        while route:
            stretch = Stretch(tuple(route[:1]))
            if straight:
                stretch = possible(package, stretches.longest(package.manifest, route))
            found.append(stretch)
            route = route[len(stretch.updates) :]
        return tuple(found)

    def _cached(self, route: Sequence[Update]) -> int:
        """How many updates at the beginning of a route are in the cache and can be one stretch."""
        package = self._connection.package
        if package.cached is None or route[0].source is not None:
            return 0
        updates = stretches.longest(package.manifest, route).updates
        count = 0
        while count < len(updates) and package.is_cached(updates[count]):
            count += 1
        return count

    def _is_fast(self, route: Sequence[Update]) -> bool:
        """Whether the first state would come hardly sooner than the last one of its version."""
        package = self._connection.package
        whole = stretches.longest(package.manifest, route)
        if not package.store.remote or not whole.straight or route[0].source is not None:
            return False
        if package.is_cached(route[0]) is None:
            return False  # what is measured would be the disk
        size = sum(update.bytes for update in whole.updates)

        def is_enough(rate: float) -> bool:
            return size <= SOON * rate

        rate = measure(package, route[0], self._held, is_enough)
        return package.store.supports_ranges and is_enough(rate)

    def _begin(self, stretch: Stretch) -> StagedUpdate:
        package, plan = self._connection.package, self._plan
        if package.manifest.crosses(stretch.updates[0]):
            return self._cross(stretch.updates[0])
        bundles = stretches.bundles(package, stretch)
        assert bundles is not None
        model = package.target(stretch.updates[0])
        files = self._applier.allocate(model.release)
        target = Placed(model, files.here.places)
        staging = plan.staging
        if plan.choose is not None:
            staging = plan.choose(model.layout)
        if stretch.source is None or plan.mode == "eager" or self._done < self._hidden:
            staging = "direct"
        if staging == "direct" and not target.places.straight:
            staging = "copy"
        if staging == "auto":
            staging = choose(bundles, model.layout, plan.tools.free_memory())
        return STAGING[staging](files, target, stretch, bundles, plan.check, plan.tools)

    def _cross(self, update: Update) -> StagedUpdate:
        """The step from one version to the next."""
        package, files = self._connection.package, self._applier.files
        index, model = package.index(update), package.target(update)
        origin = Origin(files.here, files.regions)
        if misfit(files.here.model, model) is not None:
            # Nobody uses the memory of states with other tensors.
            files = ModelMemory(package, model.release)
            files.spare_nothing()
        return cross(
            files,
            update,
            index,
            place(files, model, origin.placed, index),
            origin=origin,
            bundles=single_bundles(index.chunks),
            check=self._plan.check,
            tools=self._plan.tools,
            source=update.source,
            before={},
            checked=True,
        )
