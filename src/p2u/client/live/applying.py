"""Apply an update to a live model: fetch it, stage it, and commit it while nobody holds a pin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from p2u.client.live.low_priority import LowPriority
from p2u.client.live.memory import ModelMemory
from p2u.client.live.parts import LiveParts
from p2u.client.live.phase_times import PhaseTimes
from p2u.client.live.places import Placed
from p2u.client.live.staging.copied import CopiedUpdate
from p2u.client.live.staging.staged_update import StagedUpdate
from p2u.client.routes import stretches
from p2u.client.routes.line import Held
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Bundle
from p2u.errors import DiskError, FormatError, IntegrityError, P2UError, UsageError
from p2u.package.manifest import Release, State


class Applier:
    """Applies updates to the memory of a live model, for the first route and for later ones.

    Args:
        parts: Of the model.

    Attributes:
        staging: Name of the staging of the last update; None before the first.
        times: Where the seconds went; replaced by whoever wants to know those of one version.
    """

    def __init__(self, parts: LiveParts) -> None:
        self.staging: str | None = None
        self._eager = parts.plan.mode == "eager"
        self._connection = parts.connection
        self._stop = parts.stop
        self._status = parts.status
        self._pins = parts.pins
        self._listeners = parts.listeners
        self._files: ModelMemory | None = None
        self.times = PhaseTimes()

    @property
    def files(self) -> ModelMemory:
        """The memory, which is there from the first state on.

        Raises:
            UsageError: It is not there yet.
        """
        if self._files is None:
            raise UsageError("no state is complete yet", hint='Call wait("base") first')
        return self._files

    def allocate(self, release: Release) -> ModelMemory:
        """The memory, made for a release unless it is there."""
        if self._files is None:
            self._files = ModelMemory(self._connection.package, release)
        return self._files

    def drop_spare(self) -> None:
        """Free all memory but that of the model."""
        if self._files is not None:
            self._files.drop_spare()

    def fetch(
        self,
        step: StagedUpdate,
        later: Sequence[Stretch],
        held: Held | None = None,
        *,
        low_priority: bool,
    ) -> None:
        """Fetch and stage what a step lacks; after it, the step can be committed.

        Args:
            step: The step.
            later: The stretches after it on the route; the next one is begun ahead.
            held: Payloads that are here.
            low_priority: Leave the processors, and the network, to the model in use.

        Raises:
            The errors of the store, of `StagedUpdate.apply` and `StagedUpdate.prepare`.
        """
        self.staging, step.broken = step.name, False
        package = self._connection.package
        following = None
        for stretch in later[:1]:
            package.look_ahead(stretch.updates[0])
            following = partial(stretches.all_wanted, package, stretch)
        apply = partial(self._apply, step)
        package.fetcher.run(
            stretches.wanted(package, step.stretch, tuple(step.missing.values()), held),
            LowPriority(apply) if low_priority else apply,
            following=following,
            patient=low_priority,
        )
        with self._classified(step, spoils=False), self.times.checking():
            step.prepare()

    def _apply(self, step: StagedUpdate, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        with self._classified(step, spoils=self._eager), self.times.decoding():
            step.apply(bundle, payloads)

    def exchange(self, step: CopiedUpdate, state: State, placed: Placed) -> None:
        """Let the memory be the next state, and keep what was there; or take that back.

        Args:
            step: Fetched.
            state: The state that the memory is of afterwards.
            placed: Its release.

        Raises:
            See `commit`.
        """

        def replace() -> None:
            step.exchange()
            step.files.here = placed

        self._replace_unpinned(step, state, replace)

    def commit(self, step: StagedUpdate, state: State, *, first: bool = False) -> None:
        """Let the memory be the next state, and check it.

        Args:
            step: Fetched.
            state: The next state.
            first: The memory has none yet, so that nobody can use it.

        Raises:
            Cancelled: While pins kept it waiting.
            The errors of `StagedUpdate.commit`, of `StagedUpdate.finish` and of on-commit actions.
        """
        commit = partial(self._replace, step)

        if first or self._eager:
            if not first:
                self._listeners.check()
            self._listeners.commit(state, commit, 0.0)
        else:
            self._replace_unpinned(step, state, commit)
        with self._classified(step, spoils=True):
            step.finish()

    def _replace_unpinned(
        self, step: StagedUpdate, state: State, replace: Callable[[], None]
    ) -> None:
        with self._pins.commit(self._stop.check) as waited:
            self._listeners.check()
            with self._classified(step, spoils=True):
                self._listeners.commit(state, replace, waited)

    def pass_by(self, step: StagedUpdate) -> None:
        """Let the memory be a state that nobody is to use.

        Raises:
            The errors of `StagedUpdate.commit` and of `StagedUpdate.finish`.
        """
        with self._classified(step, spoils=False):
            self._replace(step)
            step.finish()

    def _replace(self, step: StagedUpdate) -> None:
        step.commit()
        step.files.here = step.target
        self._files = step.files

    @contextmanager
    def _classified(self, step: StagedUpdate, *, spoils: bool) -> Iterator[None]:
        """Note the kind of an error: a full disk can be mended, a broken update cannot.

        Args:
            step: To be marked as broken.
            spoils: The memory in use is being changed.
        """
        try:
            yield
        except BaseException as error:
            written = self._written(step, error, spoils)
            if spoils and self._status.state is not None:
                self._status.spoil(written or error)
            elif written is None and not isinstance(error, DiskError):
                step.broken = True
            if written is not None:
                raise written from error
            raise

    def _written(self, step: StagedUpdate, error: BaseException, spoils: bool) -> P2UError | None:
        """The error that says so if not the package is wrong, but the memory was written to."""
        state = self._status.state
        if state is None or not isinstance(error, FormatError | IntegrityError):
            return None
        try:
            self._listeners.check()
        except P2UError as found:
            return found
        if spoils or step.name == "direct" or self.files.holds(state):
            return None
        return UsageError(
            f"the tensors were written to, so they are not those of {state.id} any more, which the "
            "next state is made from",
            hint="Wait for the last state before you change them: replica.wait()",
        )
