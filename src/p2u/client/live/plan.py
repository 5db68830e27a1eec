"""The plan of a live model: the options of ``p2u.open``, checked together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from p2u.client.live.staging.choice import STAGING
from p2u.client.live.staging.tools import StagingTools
from p2u.client.transfer.checking import EXACT, check_choice
from p2u.client.transfer.options import DEFAULT_OPTIONS, TransferOptions
from p2u.errors import UsageError
from p2u.package.layout import Layout

MODES = ("atomic", "eager")
STAGINGS = ("auto", *STAGING)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePlan:
    """The options of ``p2u.open``, which describes them.

    Attributes:
        transfer: How bytes are fetched.
        choose: Chooses the staging once the layout is known.
        low_priority: Refine in threads of lower priority.
        follow: Seconds between two looks at the package for a new version.
        check: Which files are compared with their digests, see `is_checked`.
        each_state: Somebody may use the states before the one wanted.
        hold: Later versions are staged by `Replica.fetch` and wait for their commit to be called.
        tools: Limits and functions of staging.

    Raises:
        UsageError: An option is unknown, or does not fit another one.
    """

    until: str = "exact"
    mode: str = "atomic"
    staging: str = "auto"
    patience: float = 5.0
    check: str = EXACT
    transfer: TransferOptions = DEFAULT_OPTIONS
    choose: Callable[[Layout], str] | None = None
    low_priority: bool = True
    deadline: float | None = None
    follow: float | None = None
    each_state: bool = True
    hold: bool = False
    tools: StagingTools = field(default_factory=StagingTools)

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice(self.check)
        if self.follow is not None:
            if not self.follow > 0:
                raise UsageError(f"follow every {self.follow:g} s", hint="It is in seconds")
            if self.mode != "atomic" or "@" in self.until:
                raise UsageError(
                    "a replica that follows versions needs mode='atomic', and a label as until"
                )
        if self.hold and (self.mode != "atomic" or self.follow is not None):
            raise UsageError("versions can only be held in mode='atomic', and without follow")
        for name, value, known in (("mode", self.mode, MODES), ("staging", self.staging, STAGINGS)):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")

    @property
    def straight(self) -> bool | None:
        """Whether the first route leaves out the states before its last one; None: if it is fast.

        With a deadline, the best state by then is wanted.
        """
        asked = self.transfer.straight
        if asked is None and not self.each_state:
            return True
        return False if asked is None and self.deadline is not None else asked
