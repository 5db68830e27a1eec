"""The course of a replica: its updates one after the other, in as many attempts as it takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2u._client.control import Stop
from p2u._client.fetch import Retry
from p2u._client.gate import Gate
from p2u._client.greeting import Greeting
from p2u._client.lent import Lent
from p2u._client.memory import Files
from p2u._client.package import Package, find_state
from p2u._client.polite import Politely
from p2u._client.staging import STAGING, Step, choose
from p2u.errors import DiskError, UsageError
from p2u.index import Chunk
from p2u.layout import Layout
from p2u.manifest import Update
from p2u.plan import find_path
from p2u.stores import Store

MODES = ("atomic", "eager")
STAGINGS = ("auto", *STAGING)


@dataclass(frozen=True, slots=True)
class Commit:
    """One change of state.

    Attributes:
        state: Label of the state that it led to.
        pause: Seconds for which nobody could have a pin.
        waited: Seconds before, until all pins had been released.
    """

    state: str
    pause: float
    waited: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for; see ``p2u.open``.

    Attributes:
        choose: Decides on the staging when the tensors are known.
        polite: Refine in threads of lower priority.
    """

    until: str
    mode: str
    staging: str = "auto"
    patience: float = 5.0
    check: bool = True
    jobs: int | None = None
    limit_rate: float | str | None = None
    retry: Retry | None = None
    choose: Callable[[Layout], str] | None = None
    polite: bool = True
    deadline: float | None = None


class Course:
    """Fetches and applies the updates of one way. `run` is for one thread at a time.

    Args:
        source: Path or URL of the package, or an open store.
        plan: What is wanted.
        greeting: Of this source, for the first attempt.

    Attributes:
        labels: Id to label of each state on the way; empty until the manifest is here.
        marks: See `Package.marks`.
        target: Label of the state on its way.
        staging: How the last update came, or comes, into memory.
        hopeless: Trying again would fail again.
        spoilt: The error that has left the memory without a valid state.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Store,
        plan: Plan,
        greeting: Greeting | None = None,
    ) -> None:
        self.plan = plan
        self.gate = Gate(plan.patience)
        self.labels: dict[str, str] = {}
        self.marks: tuple[tuple[str, int], ...] = ()
        self.target: str | None = None
        self.staging: str | None = None
        self.hopeless = False
        self.spoilt: BaseException | None = None
        self._source = Lent(source) if isinstance(source, Store) else source
        self._stop = Stop()
        self._stop.on_call(self.gate.wake)
        self._files: Files | None = None
        self._way: tuple[Update, ...] = ()
        self._done = 0
        self._step: Step | None = None
        self.package = self._connect(None, greeting)

    def _connect(self, known: Package | None, greeting: Greeting | None = None) -> Package:
        attempt = Stop()
        self._stop.on_call(attempt.call)
        return Package(
            self._source,
            jobs=self.plan.jobs,
            limit_rate=self.plan.limit_rate,
            stop=attempt,
            retry=self.plan.retry,
            known=known,
            greeting=greeting,
        )

    def need_files(self) -> Files:
        """The memory, which is there from the first state on."""
        if self._files is None:
            raise UsageError("no state is complete yet", hint='Call wait("base") first')
        return self._files

    def cancel(self) -> None:
        """End the transfer, and all later ones."""
        self._stop.call()
        if isinstance(self._source, Lent):
            self._source.end()

    def run(
        self,
        replace: Callable[[str, Callable[[], None], float], None],
        announce: Callable[[str], None],
    ) -> None:
        """Go on from where the last attempt ended, to the state wanted.

        Args:
            replace: Called with a label, what makes the memory that state, and the seconds waited
                for it; nobody has a pin meanwhile.
            announce: Called with the label of each state that is complete.

        Raises:
            P2UError: The attempt failed.
        """
        if self.package.stop.called:
            self.package = self._connect(self.package)
        package = self.package
        try:
            with package:
                if not self._way:
                    self._find_way()
                while self._done < len(self._way):
                    self._update(replace)
                    announce(self.labels[self._way[self._done].target])
                    self._done += 1
        finally:
            package.stop.call()  # the next attempt needs another connection
            if self._stop.called or (self._way and self._done == len(self._way)):
                self._free()

    def _free(self) -> None:
        self._step = None
        if self._files is not None:
            self._files.drop_spare()
        if isinstance(self._source, Lent):
            self._source.end()

    def _find_way(self) -> None:
        manifest = self.package.manifest
        want = find_state(manifest, self.plan.until)
        self._way = find_path(manifest.updates, None, want.id)
        self.package.look_ahead(self._way[0])
        self.marks = self.package.marks(self._way)
        self.labels = {update.target: manifest.title(update.target) for update in self._way}

    def _update(self, replace: Callable[[str, Callable[[], None], float], None]) -> None:
        update = self._way[self._done]
        label = self.labels[update.target]
        self.target = label
        step = self._step
        if step is None:
            step = self._step = self._begin(update, self.package.index(update).chunks)
        following = None
        for later in self._way[self._done + 1 : self._done + 2]:
            self.package.look_ahead(later)
            following = self.package.following(later)
        polite = self.plan.polite and update.source is not None
        take = Politely(self._apply) if polite else self._apply
        missing = tuple(step.missing.values())
        run = self.package.fetcher.run
        run(update.blobs, missing, take, following=following, patient=polite)
        with self._judged(spoils=False):
            step.prepare()
        if update.source is None or self.plan.mode == "eager":
            replace(label, step.commit, 0.0)
        else:
            with (
                self.gate.commit(self.package.stop.check) as waited,
                self._judged(spoils=True),
            ):
                replace(label, step.commit, waited)
        with self._judged(spoils=True):
            step.finish()
        self._step = None

    def _begin(self, update: Update, chunks: tuple[Chunk, ...]) -> Step:
        if self._files is None:
            release = self.package.manifest.release(update.target)
            self._files = Files(self.package, release)
        files = self._files
        staging = self.plan.staging
        if update.source is None or self.plan.mode == "eager":
            staging = "direct"
        elif self.plan.choose is not None:
            staging = self.plan.choose(files.layout)
        if staging == "auto":
            staging = choose(chunks, files.layout)
        self.staging = staging
        return STAGING[staging](files, update, chunks, self.plan.check)

    def _apply(self, chunk: Chunk, payload: memoryview) -> None:
        assert self._step is not None
        with self._judged(spoils=self.plan.mode == "eager"):
            self._step.apply(chunk, payload)

    @contextmanager
    def _judged(self, *, spoils: bool) -> Iterator[None]:
        """Note what an error means: a full disk can be mended, a faulty package cannot."""
        try:
            yield
        except BaseException as error:
            if spoils and self._done:
                self.spoilt = error
            self.hopeless = self.spoilt is not None or not isinstance(error, DiskError)
            raise
