"""One pull from start to end: inspect the target, choose a route, write each update."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2u.client.folder.build_and_swap import BuildAndSwap
from p2u.client.folder.copied import copy_state
from p2u.client.folder.in_place import REDO_LIMIT, InPlace, LostError
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
from p2u.client.folder.target import Target, journal_header
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.routes.routes import BrokenUpdateError, Route, Routes, broken
from p2u.client.transfer.control import Progress, in_time
from p2u.client.transfer.package_reader import PackageReader
from p2u.client.transfer.requests import plan_requests
from p2u.disk.errors import disk_errors
from p2u.disk.files import allocated_bytes
from p2u.errors import DiskError
from p2u.package.lookup import find_state
from p2u.package.manifest import Manifest, State, Update, changed_files

#: Bytes of free space that are left alone: state file, journal, folders.
_SLACK = 2 << 20


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
        # The work folder is next to the folder itself, not next to a link to it.
        self.target = Path(target).resolve()
        self.work = WorkFolder(self.target)
        self.task = task
        self.manifest: Manifest = package.manifest
        self.routes = Routes(self.manifest, find_state(self.manifest, task.until), updates)
        self._reopen = reopen
        self._origin = None if task.origin is None else Path(task.origin).resolve()
        self._parents: dict[str, FoundState] = {}
        self._on_state = task.on_state or (lambda label: None)
        self._reached: str | None = None
        self._marks: tuple[tuple[str, int], ...] = ()

    def run(self) -> str:
        """Pull; returns the label of the state that the target holds then.

        Raises:
            See ``p2u.pull``.
        """
        local = self._inspect()
        if self.routes.satisfied(local.state) and not self.work.exists():
            return self._stay(local)
        self.work.acquire()
        complete = False
        try:
            if self.work.settle():
                local = self._inspect()
            if not self.routes.satisfied(local.state):
                local = self._update(local)
            complete = not self._is_unfinished()
        finally:
            # A thread may still be reading ahead.
            self.package.stop_caching()
            self.work.release(remove=complete)
        return self._stay(local)

    def plan(self) -> PullPlan:
        """The updates that `run` would make; nothing is changed."""
        local = self._inspect()
        here = self.manifest.title(local.state) if local.state else None
        route = Route(()) if self.routes.satisfied(local.state) else self._sound_route(local)
        begin = None if self.routes.satisfied(local.state) else self.routes.want.id
        begin = route.updates[0].source if route.updates else begin
        found = read_journal(self.work.journal)
        steps = []
        for number, update in enumerate(route.updates):
            in_place = self._is_in_place(route, number)
            chunks = self.package.index(update).chunks
            header = journal_header(self.manifest, update, in_place=in_place)
            done = found.done if found is not None and found.header == header else {}
            left = [chunk for chunk in chunks if chunk.number not in done]
            requests = plan_requests(
                left,
                ranges=self.package.store.supports_ranges,
                jobs=self.package.fetcher.jobs,
                sizes=self.package.fetcher.sizes,
            )
            steps.append(
                PlannedUpdate(
                    self.manifest.title(update.target),
                    update.bytes + update.index.size,
                    sum(c.length for c in left) + update.index.size,
                    len(requests),
                    in_place,
                )
            )
        disk = self._disk(route, local)
        warnings = tuple(self.routes.warnings)
        return PullPlan(here, begin, tuple(steps), disk, self._free(), warnings)

    def _inspect(self) -> FolderContent:
        """The content of the target; `_parents` then has all states at hand."""
        check = self.package.stop.check
        local = inspect(self.target, self.manifest, repair=self.task.repair, check=check)
        found = []
        if self._origin is not None:
            found = [p for p in self._parents.values() if not p.own]
            found = found or find_parents(self._origin, self.manifest, check)
        if local.parent is not None:
            found.append(local.parent)
        same = [p for parent in found for p in same_states(parent, self.manifest)]
        self._parents = {parent.state.id: parent for parent in same}
        return local

    def _is_unfinished(self) -> bool:
        """Whether an earlier run got part of a better state, which is worth keeping."""
        found = read_journal(self.work.journal)
        return found is not None and any(
            found.header == journal_header(self.manifest, update, in_place=False)
            for update in self.manifest.updates
            if update.source in (self._parents or {None})
        )

    def _stay(self, local: FolderContent) -> str:
        assert local.state is not None
        if local.recorded is not None and not local.fresh:
            # So that the next run need not hash the files again.
            with disk_errors(self.target):
                local.recorded.with_hints(self.target).write(self.target)
        if self._reached is None:
            self._on_state(self.manifest.title(local.state))
        return self.manifest.title(local.state)

    def _route(self, local: FolderContent) -> Route:
        if local.refining is not None:
            found = read_journal(self.work.journal)
            for update in filter(self.routes.usable, self.manifest.updates):
                header = journal_header(self.manifest, update, in_place=True)
                if found is not None and found.header == header:
                    target = self.manifest.state(update.target)
                    rest: tuple[Update, ...] = ()
                    if not self.routes.satisfied(target):
                        rest = self.routes.find([target])
                    return Route((update, *rest), resume=True)
        return Route(self.routes.find_sound(self.package, self._have()))

    def _is_in_place(self, route: Route, number: int) -> bool:
        if number == 0 and route.resume:
            return True
        update = route.updates[number]
        if not self.task.in_place or update.source is None:
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
            try:
                route = self._route(local)
                self._check_disk(route, local)
                if route.updates:
                    self._follow(route)
                else:  # what is wanted is there, but elsewhere
                    copy_state(self.package, self.work, self._parents[self.routes.want.id])
                    self._reached = self.manifest.title(self.routes.want)
                    self._on_state(self._reached)
                return self._inspect()
            except LostError:
                self._parents = {n: p for n, p in self._parents.items() if not p.own}
                local = replace(local, parent=None, refining=None)
            except BrokenUpdateError as found:
                self._avoid(found)
                local = self._inspect()

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
        if self.package.stop.called:
            self.package.close()
            self.package = self._reopen(self.package)
        self.package.renew("")
        if self.package.manifest == self.manifest:
            self._inspect()
            self.routes.drop(found.update, found.error, self._have())
            return
        # It was published again, and the update is gone or another one.
        self.manifest = self.package.manifest
        warnings = self.routes.warnings
        self.routes = Routes(self.manifest, find_state(self.manifest, self.task.until))
        self.routes.warnings = warnings

    def _have(self) -> list[State]:
        return [parent.state for parent in self._parents.values()]

    def _follow(self, route: Route) -> None:
        self._marks = self.package.marks(route.updates)
        for first in route.updates[:1]:
            self.package.look_ahead(first)
        for number, update in enumerate(route.updates):
            in_place = self._is_in_place(route, number)
            # Without a state, or with half of one, there is nothing to stay with.
            parent = None if route.resume and number == 0 else self._parent(route, number)
            can_stop = parent is not None and parent.own
            if can_stop and self._too_late(update):
                return
            tick = partial(self._tick, update, can_stop and not in_place)
            with broken(update):
                if not self._make(route, number, tick):
                    return
            self._reached = self.manifest.title(update.target)
            self._tick(update, False)
            self._on_state(self._reached)

    def _make(self, route: Route, number: int, tick: Callable[[], bool]) -> bool:
        """Make one update of a route; whether it is complete."""
        update = route.updates[number]
        kind: type[Target] = InPlace if self._is_in_place(route, number) else BuildAndSwap
        target = kind(self.package, self.work, update, self._parent(route, number))
        try:
            missing = target.prepare()
            following = None
            for later in route.updates[number + 1 : number + 2]:
                self.package.look_ahead(later)
                following = self.package.following(later)
            run = self.package.fetcher.run
            if not run(update.blobs, missing, target.apply, tick, following):
                return False
            target.finish()
        finally:
            target.close()
        return True

    def _too_late(self, update: Update) -> bool:
        """Whether the deadline is too near for this update."""
        if self.task.deadline is None:
            return False
        meter = self.package.meter
        if self._reached is None:
            # Nothing was measured yet: try.
            return meter.seconds >= self.task.deadline
        left = update.index.size + update.bytes
        return not in_time(left, meter.rate(), meter.seconds, self.task.deadline)

    def _tick(self, update: Update, can_stop: bool) -> bool:
        """Report the progress; whether to go on."""
        meter = self.package.meter
        go_on = not (
            can_stop and self.task.deadline is not None and meter.seconds > self.task.deadline
        )
        if self.task.progress is None:
            return go_on
        self.task.progress(
            Progress(
                self._reached,
                self.manifest.title(update.target),
                meter.done,
                self._marks[-1][1],
                meter.rate(),
                meter.seconds,
                self._marks,
            )
        )
        return go_on

    def _free(self) -> int:
        with disk_errors(self.work.parent, "read"):
            return self.task.free_bytes(self.work.parent)

    def _disk(self, route: Route, local: FolderContent) -> int:
        """Most bytes that the route needs on the disk at any moment, beyond those taken now."""
        if not route.updates:
            if self.routes.satisfied(local.state):
                return 0
            return sum(f.size for f in self.manifest.release(self.routes.want).files) + _SLACK
        taken = peak = 0
        there = local.state is not None or local.recorded is not None
        for number, update in enumerate(route.updates):
            files = self.manifest.release(update.target).files
            own = number > 0 or route.resume or update.source is None
            own = own or self._parents[update.source or ""].own
            changed = changed_files(self.manifest, update) if own else range(len(files))
            size = sum(files[n].size for n in changed)
            if self._is_in_place(route, number):
                peak = max(peak, taken + min(size, 2 * REDO_LIMIT))
                continue
            peak = max(peak, taken + size)
            # The former files go when the new ones are in their place.
            taken += size - (self._replaced(update, size) if there else 0)
            there = True
        peak -= allocated_bytes(self.work.next)
        objects = sum(self.manifest.cost(u) - u.bytes for u in route.updates)
        return max(0, peak) + objects + _SLACK

    def _replaced(self, update: Update, size: int) -> int:
        """Bytes of the files that an update replaces, as far as it is known."""
        if update.source is None:
            return size
        release = self.manifest.release(update.target)
        number = release.number(update.target)
        kept = {(f.path, f.size, f.digest(number)) for f in release.files}
        before = self.manifest.release(update.source)
        number = before.number(update.source)
        return sum(f.size for f in before.files if (f.path, f.size, f.digest(number)) not in kept)

    def _check_disk(self, route: Route, local: FolderContent) -> None:
        needed, free = self._disk(route, local), self._free()
        if needed <= free:
            return
        hint = "Free some space or choose another disk"
        if not self.task.in_place and any(u.source is not None for u in route.updates):
            hint = f"{hint}, or use --in-place, which does not need room for two states"
        raise DiskError(
            f"{_mib(needed)} of free space are needed, {_mib(free)} are available",
            file=str(self.target),
            hint=hint,
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
