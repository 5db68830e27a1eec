"""One pull from beginning to end: look, plan, lock, and update by update to disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from p2u.client.folder.target import Target, journal_header
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.routes.routes import BrokenUpdateError, Route, Routes, broken
from p2u.client.transfer.control import Progress, in_time
from p2u.client.transfer.package_reader import PackageReader
from p2u.client.transfer.requests import plan_requests
from p2u.disk.errors import disk_errors
from p2u.disk.files import allocated_bytes, free_bytes
from p2u.errors import DiskError
from p2u.package.lookup import find_state
from p2u.package.manifest import Manifest, State, Update, changed_files

#: Bytes of free space that are left alone: state file, journal, folders.
_SLACK = 2 << 20


@dataclass(frozen=True, slots=True)
class PlannedUpdate:
    """One update of a plan.

    Attributes:
        state: Label of the state that it leads to.
        bytes: Of the package, its index included.
        missing: Of these, not fetched by an earlier run.
        requests: Byte ranges to ask for.
        in_place: Whether the files are refined where they lie.
    """

    state: str
    bytes: int
    missing: int
    requests: int
    in_place: bool


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull would do.

    Attributes:
        here: Label of the state that the target holds; None for none.
        begin: Id of the state that the way begins at, here or elsewhere; None for nothing.
        steps: The updates, in order; empty if there is nothing to do.
        disk: Bytes of free space needed.
        free: Bytes of free space there are.
        warnings: What was found broken, and is gone around.
    """

    here: str | None
    begin: str | None
    steps: tuple[PlannedUpdate, ...]
    disk: int
    free: int
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(step.missing for step in self.steps)


class FolderTransfer:
    """A pull of a package to a folder.

    Args:
        package: Open.
        target: The folder.
        until: Label or id of the state wanted.
        in_place: Refine files where they lie.
        origin: A folder or file that holds a state, too; it is only read.
        updates: Those that may be used; None for all.
        reopen: Opens the package once more, after an update was found broken. What it returns is
            `package` then, and closed by the caller; None: the error is raised.
        repair: Overwrite files that were changed after they were pulled.
        deadline: Seconds in which the best state possible is wanted; None for the state wanted.
        progress: Called about ten times a second, in this thread.
        on_state: Called with the label of each state as soon as the target is it.
    """

    def __init__(
        self,
        package: PackageReader,
        target: str | os.PathLike[str],
        *,
        until: str,
        in_place: bool,
        repair: bool,
        origin: str | os.PathLike[str] | None = None,
        updates: Sequence[Update] | None = None,
        reopen: Callable[[PackageReader], PackageReader] | None = None,
        deadline: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> None:
        self.package = package
        # The work folder lies beside the folder itself, not beside a link to it.
        self.target = Path(target).resolve()
        self.work = WorkFolder(self.target)
        self.in_place = in_place
        self.repair = repair
        self.deadline = deadline
        self.manifest: Manifest = package.manifest
        self.ways = Routes(self.manifest, find_state(self.manifest, until), updates)
        self._until = until
        self._reopen = reopen
        self._origin = None if origin is None else Path(origin).resolve()
        self._parents: dict[str, FoundState] = {}
        self._progress = progress
        self._on_state = on_state or (lambda label: None)
        self._reached: str | None = None
        self._marks: tuple[tuple[str, int], ...] = ()

    def run(self) -> str:
        """Pull; returns the label of the state that the target holds then.

        Raises:
            See ``p2u.pull``.
        """
        local = self._inspect()
        if self.ways.satisfied(local.state) and not self.work.exists():
            return self._stay(local)
        self.work.acquire()
        complete = False
        try:
            if self.work.settle():
                local = self._inspect()
            if not self.ways.satisfied(local.state):
                local = self._update(local)
            complete = not self._is_under_way()
        finally:
            self.work.release(remove=complete)
        return self._stay(local)

    def plan(self) -> PullPlan:
        """What `run` would do; nothing is changed."""
        local = self._inspect()
        here = self.manifest.title(local.state) if local.state else None
        way = Route(()) if self.ways.satisfied(local.state) else self._sound_way(local)
        begin = None if self.ways.satisfied(local.state) else self.ways.want.id
        begin = way.updates[0].source if way.updates else begin
        found = read_journal(self.work.journal)
        steps = []
        for number, update in enumerate(way.updates):
            in_place = self._is_in_place(way, number)
            chunks = self.package.index(update).chunks
            header = journal_header(self.manifest, update, in_place=in_place)
            done = found.done if found is not None and found.header == header else {}
            left = [chunk for chunk in chunks if chunk.number not in done]
            requests = plan_requests(
                left,
                ranges=self.package.store.supports_ranges,
                jobs=self.package.fetcher.jobs,
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
        disk = self._disk(way, local)
        warnings = tuple(self.ways.warnings)
        return PullPlan(here, begin, tuple(steps), disk, self._free(), warnings)

    def _inspect(self) -> FolderContent:
        """What the target holds; `_parents` then has all states at hand."""
        check = self.package.stop.check
        local = inspect(self.target, self.manifest, repair=self.repair, check=check)
        found = []
        if self._origin is not None:
            found = [p for p in self._parents.values() if not p.own]
            found = found or find_parents(self._origin, self.manifest, check)
        if local.parent is not None:
            found.append(local.parent)
        same = [p for parent in found for p in same_states(parent, self.manifest)]
        self._parents = {parent.state.id: parent for parent in same}
        return local

    def _is_under_way(self) -> bool:
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

    def _way(self, local: FolderContent) -> Route:
        if local.refining is not None:
            found = read_journal(self.work.journal)
            for update in filter(self.ways.usable, self.manifest.updates):
                header = journal_header(self.manifest, update, in_place=True)
                if found is not None and found.header == header:
                    target = self.manifest.state(update.target)
                    rest: tuple[Update, ...] = ()
                    if not self.ways.satisfied(target):
                        rest = self.ways.find([target])
                    return Route((update, *rest), resume=True)
        return Route(self.ways.find_sound(self.package, self._have()))

    def _is_in_place(self, way: Route, number: int) -> bool:
        if number == 0 and way.resume:
            return True
        update = way.updates[number]
        if not self.in_place or update.source is None:
            return False
        return (number > 0 or self._parents[update.source].own) and self.package.aligned(update)

    def _parent(self, way: Route, number: int) -> FoundState | None:
        """Where the state is that an update begins at."""
        source = way.updates[number].source
        if source is None:
            return None
        if number == 0 and not way.resume:
            return self._parents[source]
        return parent_in(self.target, self.manifest, self.manifest.state(source))

    def _update(self, local: FolderContent) -> FolderContent:
        while True:
            self.package.cache = self.work.cache
            try:
                way = self._way(local)
                self._check_disk(way, local)
                if way.updates:
                    self._go(way)
                else:  # what is wanted is there, but elsewhere
                    copy_state(self.package, self.work, self._parents[self.ways.want.id])
                    self._reached = self.manifest.title(self.ways.want)
                    self._on_state(self._reached)
                return self._inspect()
            except LostError:
                self._parents = {n: p for n, p in self._parents.items() if not p.own}
                local = replace(local, parent=None, refining=None)
            except BrokenUpdateError as found:
                self._go_around(found)
                local = self._inspect()

    def _sound_way(self, local: FolderContent) -> Route:
        while True:
            try:
                return self._way(local)
            except BrokenUpdateError as found:
                self._go_around(found)

    def _go_around(self, found: BrokenUpdateError) -> None:
        """After a broken update: read the manifest again, or do without the update.

        Raises:
            P2UError: There is no other way.
        """
        if self._reopen is None:
            raise found.error from None
        if self.package.stop.called:
            self.package.close()
            self.package = self._reopen(self.package)
        self.package.renew("")
        if self.package.manifest == self.manifest:
            self._inspect()
            self.ways.drop(found.update, found.error, self._have())
            return
        # It was published again, and the update is gone or another one.
        self.manifest = self.package.manifest
        warnings = self.ways.warnings
        self.ways = Routes(self.manifest, find_state(self.manifest, self._until))
        self.ways.warnings = warnings

    def _have(self) -> list[State]:
        return [parent.state for parent in self._parents.values()]

    def _go(self, way: Route) -> None:
        self._marks = self.package.marks(way.updates)
        for first in way.updates[:1]:
            self.package.look_ahead(first)
        for number, update in enumerate(way.updates):
            in_place = self._is_in_place(way, number)
            # Without a state, or with half of one, there is nothing to stay with.
            parent = None if way.resume and number == 0 else self._parent(way, number)
            can_stop = parent is not None and parent.own
            if can_stop and self._too_late(update):
                return
            tick = partial(self._tick, update, can_stop and not in_place)
            with broken(update):
                if not self._make(way, number, tick):
                    return
            self._reached = self.manifest.title(update.target)
            self._tick(update, False)
            self._on_state(self._reached)

    def _make(self, way: Route, number: int, tick: Callable[[], bool]) -> bool:
        """Make one update of a way; whether it is complete."""
        update = way.updates[number]
        kind: type[Target] = InPlace if self._is_in_place(way, number) else BuildAndSwap
        target = kind(self.package, self.work, update, self._parent(way, number))
        try:
            missing = target.prepare()
            following = None
            for later in way.updates[number + 1 : number + 2]:
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
        if self.deadline is None:
            return False
        meter = self.package.meter
        if self._reached is None:
            # Nothing was measured yet: try.
            return meter.seconds >= self.deadline
        left = update.index.size + update.bytes
        return not in_time(left, meter.rate(), meter.seconds, self.deadline)

    def _tick(self, update: Update, can_stop: bool) -> bool:
        """Tell how far it is; whether to go on."""
        meter = self.package.meter
        go_on = not (can_stop and self.deadline is not None and meter.seconds > self.deadline)
        if self._progress is None:
            return go_on
        self._progress(
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
            return free_bytes(self.work.parent)

    def _disk(self, way: Route, local: FolderContent) -> int:
        """Most bytes that the way needs on the disk at any moment, beyond those taken now."""
        if not way.updates:
            if self.ways.satisfied(local.state):
                return 0
            return sum(f.size for f in self.manifest.release(self.ways.want).files) + _SLACK
        taken = peak = 0
        there = local.state is not None or local.recorded is not None
        for number, update in enumerate(way.updates):
            files = self.manifest.release(update.target).files
            own = number > 0 or way.resume or update.source is None
            own = own or self._parents[update.source or ""].own
            changed = changed_files(self.manifest, update) if own else range(len(files))
            size = sum(files[n].size for n in changed)
            if self._is_in_place(way, number):
                peak = max(peak, taken + min(size, 2 * REDO_LIMIT))
                continue
            peak = max(peak, taken + size)
            # The former files go when the new ones are in their place.
            taken += size - (self._replaced(update, size) if there else 0)
            there = True
        peak -= allocated_bytes(self.work.next)
        objects = sum(self.manifest.cost(u) - u.bytes for u in way.updates)
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

    def _check_disk(self, way: Route, local: FolderContent) -> None:
        needed, free = self._disk(way, local), self._free()
        if needed <= free:
            return
        hint = "Free some space or choose another disk"
        if not self.in_place and any(u.source is not None for u in way.updates):
            hint = f"{hint}, or use --in-place, which does not need room for two states"
        raise DiskError(
            f"{_mib(needed)} of free space are needed, {_mib(free)} are there",
            file=str(self.target),
            hint=hint,
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
