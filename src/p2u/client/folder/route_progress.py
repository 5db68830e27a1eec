"""Report the progress of a route, and see to its deadline."""

from __future__ import annotations

from collections.abc import Sequence

from p2u.client.folder.pull_task import PullTask
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.control import Progress, in_time
from p2u.client.transfer.package_reader import PackageReader
from p2u.package.manifest import Update


class RouteProgress:
    """The progress of one route.

    Args:
        package: Open.
        task: Says whom to report to, and the deadline.
        route: The updates.
        reached: Label of the state reached last; None before the first.
    """

    def __init__(
        self, package: PackageReader, task: PullTask, route: Sequence[Update], reached: str | None
    ) -> None:
        self.reached = reached
        self._package = package
        self._task = task
        self._marks = package.marks(route)
        self._target = package.manifest.title(route[0].target)

    def begin(self, stretch: Stretch) -> None:
        """A stretch is begun: the states that it leaves out are not reached."""
        manifest = self._package.manifest
        passed = {manifest.title(state) for state in stretch.passed}
        self._marks = tuple(mark for mark in self._marks if mark[0] not in passed)
        self._target = manifest.title(stretch.target)

    def is_too_late(self, stretch: Stretch) -> bool:
        """Whether the deadline is too near for a stretch."""
        if self._task.deadline is None:
            return False
        meter = self._package.meter
        if self.reached is None:
            # Nothing was measured yet: try.
            return meter.seconds >= self._task.deadline
        left = sum(update.index.size + update.bytes for update in stretch.updates)
        return not in_time(left, meter.rate(), meter.seconds, self._task.deadline)

    def tick(self, can_stop: bool = False) -> bool:
        """Report the progress; whether to go on."""
        meter, deadline = self._package.meter, self._task.deadline
        go_on = not (can_stop and deadline is not None and meter.seconds > deadline)
        if self._task.progress is not None:
            self._task.progress(
                Progress(
                    self.reached,
                    self._target,
                    meter.done,
                    self._marks[-1][1],
                    meter.rate(),
                    meter.seconds,
                    self._marks,
                )
            )
        return go_on
