"""The course of a replica: its updates one after the other, in as many attempts as it takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from p2u.client.live.follow import Follower
from p2u.client.live.low_priority import LowPriority
from p2u.client.live.memory import ModelMemory
from p2u.client.live.pins import Pins
from p2u.client.live.staging.choice import STAGING, choose
from p2u.client.live.staging.staged_update import StagedUpdate
from p2u.client.live.staging.tools import StagingTools
from p2u.client.routes.live_routes import check_still, first_route
from p2u.client.transfer.control import Stop
from p2u.client.transfer.options import DEFAULT_OPTIONS, TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import DiskError, P2UError, UsageError
from p2u.package.index import Chunk
from p2u.package.layout import Layout
from p2u.package.manifest import State, Update
from p2u.stores import Store
from p2u.stores.forwarding import KeepOpen

MODES = ("atomic", "eager")
STAGINGS = ("auto", *STAGING)


@dataclass(frozen=True, slots=True)
class Commit:
    """One change of state.

    Attributes:
        state: Label of the state that it led to.
        pause: Seconds for which nobody could have a pin.
        waited: Seconds before, until all pins had been released.
        id: Id of the state, which names its version.
    """

    state: str
    pause: float
    waited: float
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePlan:
    """What was asked for; see ``p2u.open``.

    Attributes:
        transfer: How bytes are fetched.
        choose: Decides on the staging when the tensors are known.
        polite: Refine in threads of lower priority.
        follow: Seconds between two looks at the package for a new version.
        tools: Limits and functions of staging.
    """

    until: str = "exact"
    mode: str = "atomic"
    staging: str = "auto"
    patience: float = 5.0
    check: bool = True
    transfer: TransferOptions = DEFAULT_OPTIONS
    choose: Callable[[Layout], str] | None = None
    polite: bool = True
    deadline: float | None = None
    follow: float | None = None
    tools: StagingTools = field(default_factory=StagingTools)

    def __post_init__(self) -> None:
        """Raises UsageError unless all are known, and fit."""
        if self.follow is not None:
            if not self.follow > 0:
                raise UsageError(f"follow every {self.follow:g} s", hint="It is in seconds")
            if self.mode != "atomic" or "@" in self.until:
                raise UsageError(
                    "a replica that follows versions needs mode='atomic', and a label as until"
                )
        for name, value, known in (("mode", self.mode, MODES), ("staging", self.staging, STAGINGS)):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")


#: Makes the memory a state: called with it, what does it, and the seconds waited for pins.
Replace = Callable[[State, Callable[[], None], float], None]


class LiveTransfer:
    """Fetches and applies the updates of one way. `run` is for one thread at a time.

    Args:
        source: Path or URL of the package, or an open store.
        plan: What is wanted.
        store: For the first attempt: this source, open already.

    Attributes:
        labels: Id to label of each state on the way, in order; empty until the manifest is here.
        first: Ids of those on the way from nothing to the state wanted at the beginning.
        marks: See `PackageReader.marks`.
        target: Label of the state on its way.
        position: The state that the memory holds.
        staging: How the last update came, or comes, into memory.
        follower: For the way after the first one.
        hopeless: Trying again would fail again.
        spoilt: The error that has left the memory without a valid state.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Store,
        plan: LivePlan,
        store: Store | None = None,
    ) -> None:
        self.plan = plan
        self.gate = Pins(plan.patience)
        self.labels: dict[str, str] = {}
        self.first: tuple[str, ...] = ()
        self.marks: tuple[tuple[str, int], ...] = ()
        self.target: str | None = None
        self.position: State | None = None
        self.staging: str | None = None
        self.follower = Follower(self)
        self.hopeless = False
        self.spoilt: BaseException | None = None
        self._source = KeepOpen(source) if isinstance(source, Store) else source
        self._stop = Stop()
        self._stop.on_call(self.gate.wake)
        self._attempt = Stop()
        self._stop.on_call(lambda: self._attempt.call())
        self._files: ModelMemory | None = None
        self._way: tuple[Update, ...] | None = None
        self._done = 0
        self._step: StagedUpdate | None = None
        self.package = self._connect(None, store)

    def _connect(self, known: PackageReader | None, store: Store | None = None) -> PackageReader:
        self._attempt = Stop()
        if self._stop.called:
            self._attempt.call()
        return PackageReader(
            store or self._source,
            self.plan.transfer,
            stop=self._attempt,
            known=known,
        )

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._stop.called

    def need_files(self) -> ModelMemory:
        """The memory, which is there from the first state on."""
        if self._files is None:
            raise UsageError("no state is complete yet", hint='Call wait("base") first')
        return self._files

    def add_states(self, ids: list[str]) -> None:
        """States that come next, the last one being what the way leads to."""
        kept = {state: label for state, label in self.labels.items() if state not in ids}
        self.labels = {**kept, **{state: state.partition("@")[2] for state in ids}}

    def cancel(self) -> None:
        """End the transfer, and all later ones."""
        self._stop.call()
        if isinstance(self._source, KeepOpen):
            self._source.end()

    def run(
        self, replace: Replace, announce: Callable[[State], None], more: Callable[[], bool]
    ) -> None:
        """Go on from where the last attempt ended, to the state wanted, and to newer ones.

        Args:
            replace: Called with a state, what makes the memory that state, and the seconds waited
                for it; nobody has a pin meanwhile.
            announce: Called with each state that is complete.
            more: Called after the first way and each later one; returns whether, and when, to look
                for a newer version.

        Raises:
            P2UError: The attempt failed.
        """
        if self.package.stop.called:
            self.package = self._connect(self.package)
        try:
            self._first_way(replace, announce)
            while more():
                self.follower.advance(replace, announce)
        finally:
            self._disconnect()  # the next attempt needs another connection
            if self._stop.called or (self._is_complete() and self.plan.follow is None):
                self._free()

    def _disconnect(self) -> None:
        self.package.stop.call()
        self.package.close()

    def reconnect(self) -> None:
        """A failed run has ended all that the package does: open it again."""
        self._disconnect()
        self.package = self._connect(self.package)

    def _is_complete(self) -> bool:
        return self._way is not None and self._done == len(self._way)

    def _first_way(self, replace: Replace, announce: Callable[[State], None]) -> None:
        """From nothing to the state wanted, state by state."""
        try:
            if self._way is None:
                self._find_way()
            assert self._way is not None
            while self._done < len(self._way):
                self._update(self._way[self._done], replace)
                assert self.position is not None
                announce(self.position)
                self._done += 1
        except P2UError as error:
            stuck = self.hopeless and self.spoilt is None and self.position is not None
            if self.plan.follow is None or not stuck:
                raise
            # A later version may do without what is wrong here.
            self.hopeless = False
            self._step = None
            self.need_files().drop_spare()
            self._way = (self._way or ())[: self._done]
            self.first = self.first[: self._done]
            self.follower.give_up(error, self.package.manifest)

    def _free(self) -> None:
        self._step = None
        if self._files is not None:
            self._files.drop_spare()
        if isinstance(self._source, KeepOpen):
            self._source.end()

    def _find_way(self) -> None:
        way = first_route(self.package, self.plan.until)
        self.package.look_ahead(way[0])
        manifest = self.package.manifest
        self.marks = tuple(
            (manifest.state(update.target).label, at)
            for update, (_, at) in zip(way, self.package.marks(way), strict=True)
        )
        self.first = tuple(update.target for update in way)
        self.add_states(list(self.first))
        self._way = way

    def _update(self, update: Update, replace: Replace) -> None:
        assert self._way is not None
        state = self.package.manifest.state(update.target)
        self.target = state.label
        step = self._step
        if step is None:
            check_still(self.package, update)
            step = self._step = self._begin(update, self.package.index(update).chunks)
        following = None
        for later in self._way[self._done + 1 : self._done + 2]:
            self.package.look_ahead(later)
            following = self.package.following(later)
        polite = self.plan.polite and update.source is not None
        apply = partial(self.apply, step)
        take = LowPriority(apply) if polite else apply
        missing = tuple(step.missing.values())
        run = self.package.fetcher.run
        run(update.blobs, missing, take, following=following, patient=polite)
        with self.judged(spoils=False):
            step.prepare()

        def commit() -> None:
            step.commit()
            self.need_files().release = self.package.manifest.release(state)

        if update.source is None or self.plan.mode == "eager":
            replace(state, commit, 0.0)
        else:
            with (
                self.gate.commit(self.package.stop.check) as waited,
                self.judged(spoils=True),
            ):
                replace(state, commit, waited)
        with self.judged(spoils=True):
            step.finish()
        self._step = None
        self.position = state

    def _begin(self, update: Update, chunks: tuple[Chunk, ...]) -> StagedUpdate:
        manifest = self.package.manifest
        if self._files is None:
            self._files = ModelMemory(self.package, manifest.release(update.target))
        files = self._files
        staging = self.plan.staging
        if update.source is None or self.plan.mode == "eager":
            staging = "direct"
        elif manifest.crosses(update):
            staging = "copy"
        elif self.plan.choose is not None:
            staging = self.plan.choose(files.layout)
        if staging == "auto":
            staging = choose(chunks, files.layout, self.plan.tools.free_memory())
        self.staging = staging
        return STAGING[staging](files, update, chunks, self.plan.check, self.plan.tools)

    def apply(self, step: StagedUpdate, chunk: Chunk, payload: memoryview) -> None:
        """Give a chunk to a step."""
        with self.judged(spoils=self.plan.mode == "eager"):
            step.apply(chunk, payload)

    @contextmanager
    def judged(self, *, spoils: bool) -> Iterator[None]:
        """Note what an error means: a full disk can be mended, a faulty package cannot."""
        try:
            yield
        except BaseException as error:
            if spoils and self.position is not None:
                self.spoilt = error
            self.hopeless = self.spoilt is not None or not isinstance(error, DiskError)
            raise
