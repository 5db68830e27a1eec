"""The task of a pull, and the plan for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2u.client.transfer.checking import ALL, EXACT, check_choice
from p2u.client.transfer.control import Meter, Progress
from p2u.disk.files import free_bytes
from p2u.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PullTask:
    """The state that a folder is to hold, and how to bring it there; see `p2u.pull`.

    Attributes:
        until: Label or id of the state wanted.
        origin: A folder or file that holds a state, too; it is only read.
        in_place: Refine files where they are.
        repair: Overwrite files that were changed after they were pulled.
        deadline: Seconds in which the best state possible is wanted; None for the state wanted.
        progress: Called about ten times a second, in the thread that pulls.
        on_state: Called with the label of each state as soon as the folder is it.
        each_state: Somebody uses each state as soon as it is there, so that none is left out unless
            that is asked for.
        check: ``"exact"``: compare files with the publisher's digests when they are exact;
            ``"all"``: in every state.
        meter: Counts what is fetched, together with other pulls; None: nobody asks.
        free_bytes: Room on the disk that has a folder, in bytes.

    Raises:
        UsageError: The deadline is not above 0, or ``check`` is unknown.
    """

    until: str = "exact"
    origin: str | os.PathLike[str] | None = None
    in_place: bool = False
    repair: bool = False
    deadline: float | None = None
    progress: Callable[[Progress], None] | None = None
    on_state: Callable[[str], None] | None = None
    each_state: bool = False
    check: str = EXACT
    meter: Meter | None = None
    free_bytes: Callable[[Path], int] = free_bytes

    def __post_init__(self) -> None:
        """Check the deadline and the choice of checks."""
        check_choice(self.check, (EXACT, ALL))
        if self.deadline is not None and not self.deadline > 0:
            raise UsageError(
                f"the deadline is {self.deadline:g} s", hint="It is in seconds, above 0"
            )


@dataclass(frozen=True, slots=True)
class PlannedUpdate:
    """One update of a plan.

    Attributes:
        state: Label of the state that it leads to.
        bytes: Of the package, its index included.
        missing: Of these, not fetched by an earlier run.
        requests: Byte ranges to ask for.
        in_place: Whether the files are refined where they are.
    """

    state: str
    bytes: int
    missing: int
    requests: int
    in_place: bool


@dataclass(frozen=True, slots=True)
class PullPlan:
    """The updates that a pull would make.

    Attributes:
        here: Label of the state that the target holds; None for none.
        begin: Id of the state that the route begins at, here or elsewhere; None for nothing.
        steps: The updates, in order; empty if there is nothing to do.
        disk: Bytes of free space needed.
        free: Bytes of free space there are.
        warnings: Updates that were found broken, and avoided.
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
