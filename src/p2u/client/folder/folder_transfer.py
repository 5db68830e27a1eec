"""One pull from start to end: inspect the target, choose a route, write each stretch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.build_and_swap import BuildAndSwap
from p2u.client.folder.in_place import InPlace, LostError
from p2u.client.folder.journal import read_journal
from p2u.client.folder.local import (
    FolderContent,
    FoundState,
    find_parents,
    inspect,
    parent_in,
    same_states,
)
from p2u.client.folder.pull_task import PlannedUpdate, PullPlan, PullTask
from p2u.client.folder.repair import Repair, repair
from p2u.client.folder.route_progress import RouteProgress
from p2u.client.folder.space import SLACK, most_bytes
from p2u.client.folder.state_file import StateFile
from p2u.client.folder.straight import Straight
from p2u.client.folder.target import Target, journal_header
from p2u.client.folder.whole_files import copy_found, find_files, keep_files
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.routes import stretches
from p2u.client.routes.line import Held, possible
from p2u.client.routes.routes import BrokenUpdateError, Route, Routes, broken
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Wanted
from p2u.client.transfer.package_reader import PackageReader
from p2u.client.transfer.requests import plan_requests
from p2u.disk.errors import disk_errors
from p2u.disk.files import allocated_bytes, lexists
from p2u.errors import DiskError, P2UError
from p2u.package.geometry import span_bytes
from p2u.package.graph import find_path
from p2u.package.index import MAX_DECODED
from p2u.package.lookup import find_wanted
from p2u.package.manifest import Manifest, State, Update

#: Seconds between two readings of the manifest after updates that proved broken.
RENEW_EVERY = 5.0


class FolderTransfer:
    """A pull of a package to a folder.

    Args:
        package: Open.
        target: The folder.
        task: What it shall hold.
        updates: Those that may be used; None for all.
        reopen: Opens the package once more, after an update was found broken. `package` is then
            the one that it returns, and the caller closes it. None: the error is raised.
    """

    def __init__(
        self,
        package: PackageReader,
        target: str | os.PathLike[str],
        task: PullTask,
        *,
        updates: Sequence[Update] | None = None,
        reopen: Callable[[PackageReader], PackageReader] | None = None,
    ) -> None:
        self.package = package
        # The work folder belongs to the folder itself, not to a link to it.
        with disk_errors(os.fspath(target), "read"):
            self.target = Path(target).resolve()
            self.work = WorkFolder(self.target)
        self.task = task
        self.manifest: Manifest = package.manifest
        self.routes = Routes(self.manifest, find_wanted(self.manifest, task.until), updates)
        self._reopen = reopen
        self._origin = None if task.origin is None else Path(task.origin).resolve()
        self._parents: dict[str, FoundState] = {}
        self._straight = Straight(package, task)
        #: The stretch that is being made.
        self._stretch: Stretch | None = None
        #: Ids of the states that were made.
        self._made: set[str] = set()
        #: When the manifest may be read again, by `time.monotonic`.
        self._renew_from = 0.0
        #: Whether damaged files were made anew.
        self._repaired = False
        #: Whether files at which an update began have proved damaged.
        self._restarted = False
        self._on_state = task.on_state or (lambda label: None)
        self._reached: str | None = None

    def run(self) -> str:
        """Pull; returns the label of the state that the target holds then.

        Raises:
            See ``p2u.pull``.
        """
        local = None
        if not self._left_something():
            local = self._inspect()
            if self.routes.satisfied(local.state):
                return self._stay(local)
        self.work.acquire()
        complete = False
        try:
            # A killed run may have moved some of the next state's files to their places.
            if self.work.settle() or local is None:
                local = self._inspect()
            if not self.routes.satisfied(local.state):
                local = self._update(local)
            complete = not self._is_unfinished()
        finally:
            # A thread may still be reading ahead.
            self.package.stop_caching()
            # Without a journal there is nothing that the next run could go on with.
            self.work.release(remove=complete or not lexists(self.work.journal))
        return self._stay(local)

    def _left_something(self) -> bool:
        with disk_errors(self.work.path, "read"):
            return self.work.exists()

    def plan(self) -> PullPlan:
        """The updates that `run` would make; nothing is changed."""
        local = self._inspect()
        here = self.manifest.title(local.state) if local.state else None
        route = Route(()) if self.routes.satisfied(local.state) else self._sound_route(local)
        begin = None if self.routes.satisfied(local.state) else self.routes.want.id
        begin = route.updates[0].source if route.updates else begin
        planned = self._planned(route) if route.updates else ()
        straight = self.package.options.straight is True
        disk = self._disk(route, local, straight=straight)
        warnings = tuple(self.routes.warnings)
        return PullPlan(here, begin, tuple(planned), disk, self._free(), warnings)

    def _planned(self, route: Route) -> Iterator[PlannedUpdate]:
        """The updates of a route, less the bundles that an earlier run has left."""
        done = self._left_behind(route)
        for number, update in enumerate(route.updates):
            chunks = self.package.index(update).chunks
            left = [chunk for chunk in chunks if (update, chunk.number) not in done]
            wanted = Wanted.of(update.blobs, left)
            requests = plan_requests(
                wanted.bundles,
                wanted.missing,
                ranges=self.package.store.supports_ranges,
                jobs=self.package.fetcher.jobs,
                sizes=self.package.fetcher.sizes,
            )
            yield PlannedUpdate(
                self.manifest.title(update.target),
                update.bytes + update.index.size,
                wanted.size + update.index.size,
                len(requests),
                self._is_in_place(route, number),
            )

    def _left_behind(self, route: Route) -> set[tuple[Update, int]]:
        """Updates and numbers of the chunks that an earlier run has left in the work folder."""
        found = read_journal(self.work.journal)
        stretch = found and self._straight.begun(route.updates, found.header)
        if not found or not stretch:
            return set()
        return {
            (stretch.updates[update], chunk.number)
            for bundle in stretches.bundles(self.package, stretch) or ()
            if bundle.number in found.done
            for update, chunk in zip(bundle.updates, bundle.chunks, strict=True)
        }

    def _inspect(self) -> FolderContent:
        """The content of the target; `_parents` then has all states at hand."""
        check = self.package.stop.check
        local = inspect(self.target, self.manifest, repair=self.task.repair, check=check)
        found = []
        if self._origin is not None:
            found = [p for p in self._parents.values() if not p.own]
            found = found or find_parents(self._origin, self.manifest, check)
        if local.parent is not None:
            parent = self._named(local.parent, local.recorded)
            local = replace(local, parent=parent)
            found.append(parent)
        if (cached := find_files(self.package, self.routes.want)) is not None:
            found.insert(0, cached)
        same = [p for parent in found for p in same_states(parent, self.manifest)]
        self._parents = {parent.state.id: parent for parent in same}
        return local

    def _named(self, parent: FoundState, recorded: StateFile | None) -> FoundState:
        """The target's state by the best of its names: two versions may have the same files."""
        name = "" if recorded is None else recorded.state
        same = same_states(parent, self.manifest)
        return max(same, key=lambda p: (self.routes.satisfied(p.state), p.state.id == name))

    def _is_unfinished(self) -> bool:
        """Whether an earlier run got part of a better state, which is worth keeping."""
        found = read_journal(self.work.journal)
        return found is not None and any(
            found.header == journal_header(self.manifest, stretch, in_place=False)
            for stretch in stretches.all_stretches(self.manifest)
            if stretch.source in (self._parents or {None})
        )

    def _stay(self, local: FolderContent) -> str:
        assert local.state is not None
        recorded = local.recorded
        if recorded is not None and not (local.fresh and recorded.state == local.state.id):
            # So that the next run need not hash the files again, and that it says what is here.
            made = state_file.make(self.manifest, local.state, self.package.url)
            with disk_errors(self.target):
                made.with_hints(self.target).write(self.target)
        if self.routes.satisfied(local.state):
            keep_files(self.package, local.state, self.target)
        if self._reached is None:
            self._on_state(self.manifest.title(local.state))
        return self.manifest.title(local.state)

    def _route(self, local: FolderContent) -> Route:
        if local.refining is not None:
            found = read_journal(self.work.journal)
            for stretch in stretches.all_stretches(self.manifest):
                header = journal_header(self.manifest, stretch, in_place=True)
                if found is not None and found.header == header and self._is_usable(stretch):
                    target = self.manifest.state(stretch.target)
                    rest: tuple[Update, ...] = ()
                    if not self.routes.satisfied(target):
                        rest = self.routes.find([target])
                    return Route((*stretch.updates, *rest), resume=stretch)
        return Route(self.routes.find_sound(self.package, self._have()))

    def _is_usable(self, stretch: Stretch) -> bool:
        if stretch.straight and self._straight.off:
            return False
        return all(map(self.routes.usable, stretch.updates))

    def _is_in_place(self, route: Route, number: int, *, allowed: bool | None = None) -> bool:
        """Whether an update is made in place; ``allowed``: as if ``--in-place`` were given."""
        if number == 0 and route.resume:
            return True
        update = route.updates[number]
        allowed = self.task.in_place if allowed is None else allowed
        if not allowed or update.source is None:
            return False
        return (number > 0 or self._parents[update.source].own) and self.package.aligned(update)

    def _parent(self, route: Route, number: int) -> FoundState | None:
        """The place of the state from which an update begins."""
        source = route.updates[number].source
        if source is None:
            return None
        if number == 0 and not route.resume:
            return self._parents[source]
        return parent_in(self.target, self.manifest, self.manifest.state(source))

    def _update(self, local: FolderContent) -> FolderContent:
        while True:
            self.package.cache = self.work.cache
            self._stretch = None
            try:
                if local.damaged is not None and self._repair(*local.damaged):
                    local = self._inspect()
                    if self.routes.satisfied(local.state):
                        return local
                route = self._route(local)
                self._check_disk(route, local)
                if route.updates:
                    self._follow(route)
                # Else what is wanted is there, but elsewhere.
                elif copy_found(self.package, self.work, self._parents[self.routes.want.id]):
                    self._reached = self.manifest.title(self.routes.want)
                    self._on_state(self._reached)
                else:
                    del self._parents[self.routes.want.id]
                    local = self._inspect()
                    continue
                return self._inspect()
            except LostError:
                self._parents = {n: p for n, p in self._parents.items() if not p.own}
                local = replace(local, parent=None, refining=None)
            except BrokenUpdateError as found:
                if self._reopen is not None and self._is_straight():
                    # The states before the broken update are wanted, and its name.
                    self._straight.give_up()
                    self._reconnect(self._reopen)
                else:
                    self._avoid(found)
                local = self._inspect()

    def _repair(self, state: State, damaged: tuple[int, ...]) -> bool:
        """Make only the damaged files of a state anew, if that is possible and fetches less."""
        updates = self.manifest.updates
        route = find_path(updates, None, state.id, cost=self.manifest.cost)
        stretch = stretches.longest(self.manifest, route) if route else None
        if stretch is None or len(stretch.updates) < len(route) or self._repaired:
            return False
        self._repaired = True
        with broken(route[0]):
            if possible(self.package, stretch) != stretch:
                return False
            parent = parent_in(self.target, self.manifest, state)
            target = Repair(self.package, self.work, stretch, parent, damaged)
            rest = find_path(updates, state.id, self.routes.want.id, cost=self.manifest.cost)
            anew = find_path(updates, None, self.routes.want.id, cost=self.manifest.cost)
            if target.missing + sum(map(self.manifest.cost, rest)) > sum(
                map(self.manifest.cost, anew)
            ):
                return False
            progress = RouteProgress(self.package, self.task, route, None)
            progress.begin(stretch)
            repair(target, progress.tick)
        return True

    def _is_straight(self) -> bool:
        """Whether the present stretch leaves states out."""
        return self._stretch is not None and self._stretch.straight

    def _sound_route(self, local: FolderContent) -> Route:
        while True:
            try:
                return self._route(local)
            except BrokenUpdateError as found:
                self._avoid(found)

    def _avoid(self, found: BrokenUpdateError) -> None:
        """After a broken update: read the manifest again, or do without the update.

        Raises:
            P2UError: There is no other route.
        """
        if self._reopen is None:
            raise found.error from None
        self._reconnect(self._reopen)
        if time.monotonic() >= self._renew_from:
            self.package.renew("")
            self._renew_from = time.monotonic() + RENEW_EVERY
        if self.package.manifest == self.manifest:
            before = self._made.union(state.id for state in self._have())
            local = self._inspect()
            lost = before.difference(state.id for state in self._have())
            if local.refining is None and found.update.source in lost and not self._restarted:
                self._restarted = True
                return  # the files at which it began were to blame
            self.routes.drop(found.update, found.error, self._have())
            return
        # It was published again, and the update is gone or another one.
        self.manifest = self.package.manifest
        warnings = self.routes.warnings
        self.routes = Routes(self.manifest, find_wanted(self.manifest, self.task.until))
        self.routes.warnings = warnings

    def _reconnect(self, reopen: Callable[[PackageReader], PackageReader]) -> None:
        """Open the package again if the failure has ended its threads."""
        if self.package.stop.called:
            self.package.close()
            self.package = self._straight.package = reopen(self.package)

    def _have(self) -> list[State]:
        return [parent.state for parent in self._parents.values()]

    def _follow(self, route: Route) -> None:
        progress = RouteProgress(self.package, self.task, route.updates, self._reached)
        self.package.look_ahead(route.updates[0])
        number = 0
        while number < len(route.updates):
            # Without a state, or with half of one, there is nothing to stay with.
            resumes = route.resume is not None and number == 0
            parent = None if resumes else self._parent(route, number)
            can_stop = parent is not None and parent.own
            self._stretch = None
            with broken(route.updates[number]):
                stretch, held = self._choose(route, number, progress)
                if can_stop and progress.is_too_late(stretch):
                    return
                self._stretch = stretch
                progress.begin(stretch)
                tick = partial(progress.tick, can_stop and not self._is_in_place(route, number))
                if not self._make(route, number, held, tick):
                    return
            self._made.add(stretch.target)
            self._reached = progress.reached = self.manifest.title(stretch.target)
            progress.tick()
            self._on_state(self._reached)
            number += len(stretch.updates)

    def _choose(self, route: Route, number: int, progress: RouteProgress) -> tuple[Stretch, Held]:
        """The stretch that begins at an update, and payloads of it that are here."""
        rest = route.updates[number:]
        if number:
            return self._straight.choose_ahead(rest), {}
        if route.resume is not None:
            return route.resume, {}
        begun = read_journal(self.work.journal)
        stretch = self._straight.choose(rest, begun.header if begun else None)
        if stretch is not None:
            return stretch, {}
        return self._straight.measure(rest, progress.tick)

    def _make(self, route: Route, number: int, held: Held, tick: Callable[[], bool | None]) -> bool:
        """Make the present stretch, which begins at an update; whether it is complete."""
        stretch = self._stretch
        assert stretch is not None
        kind: type[Target] = InPlace if self._is_in_place(route, number) else BuildAndSwap
        parent = self._parent(route, number)
        target = kind(self.package, self.work, stretch, parent, self.task.check)
        if isinstance(target, InPlace):
            target.room = min(target.room, self._free() // 2)
        rest = route.updates[number + len(stretch.updates) :]
        try:
            wanted = stretches.wanted(self.package, stretch, target.prepare(), held)
            following = None
            if rest:
                self.package.look_ahead(rest[0])
                following = partial(self._following, rest)
            if not self.package.fetcher.run(wanted, target.apply, tick, following):
                return False
            target.finish()
        finally:
            target.close()
        return True

    def _following(self, rest: Sequence[Update]) -> Wanted:
        """What the run after the present one will probably fetch."""
        return stretches.all_wanted(self.package, self._straight.choose_ahead(rest))

    def _free(self) -> int:
        folder = self.work.path.parent
        with disk_errors(folder, "read"):
            return self.task.free_bytes(folder)

    def _disk(
        self,
        route: Route,
        local: FolderContent,
        *,
        straight: bool,
        in_place: bool | None = None,
    ) -> int:
        """Most bytes that the route needs on the disk at any moment, beyond those taken now."""
        if not route.updates:
            if self.routes.satisfied(local.state):
                return 0
            return sum(f.size for f in self.manifest.release(self.routes.want).files) + SLACK
        planned = []
        number = 0
        while number < len(route.updates):
            rest = route.updates[number:]
            stretch = stretches.longest(self.manifest, rest) if straight else Stretch(rest[:1])
            own = number > 0 or route.resume is not None or stretch.source is None
            own = own or self._parents[stretch.source or ""].own
            refines = self._is_in_place(route, number, allowed=in_place)
            planned.append((stretch, self._largest(stretch) if refines else None, own))
            number += len(stretch.updates)
        there = local.state is not None or local.recorded is not None
        allocated = allocated_bytes(self.work.next)
        return most_bytes(self.manifest, planned, there=there, allocated=allocated)

    def _largest(self, stretch: Stretch) -> int:
        """Decoded bytes of the largest chunk of a stretch."""
        first = stretch.updates[0]
        try:
            layout = self.package.target(first).layout
            chunks = self.package.index(first).chunks
        except P2UError:  # whoever needs the index meets the error again
            return MAX_DECODED
        return max((span_bytes(chunk, layout) for chunk in chunks), default=0)

    def _check_disk(self, route: Route, local: FolderContent) -> None:
        straight = self.package.options.straight
        needed, free = self._disk(route, local, straight=straight is True), self._free()
        if needed > free and straight is None and not self.task.each_state:
            needed = self._disk(route, local, straight=True)
            self._straight.scarce = True
        if needed <= free:
            return
        hint = "Free some space or choose another disk"
        if not self.task.in_place:
            less = self._disk(route, local, straight=straight is True, in_place=True)
            if less <= free:
                hint = f"{hint}, or use --in-place, which needs {_mib(less)}"
        raise DiskError(
            f"{_mib(needed)} of free space are needed, {_mib(free)} are available",
            file=str(self.target),
            hint=hint,
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
