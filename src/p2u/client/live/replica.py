"""The replica: the public handle of a live model, and the pins on its states."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from p2u.client.live.listeners import Commit
from p2u.client.live.live_transfer import LiveTransfer
from p2u.client.live.memory import ModelMemory
from p2u.client.live.parts import make_parts
from p2u.client.live.pins import Pin
from p2u.client.live.plan import LivePlan
from p2u.client.live.showing import TensorView, progress_html
from p2u.client.live.staged_version import StagedVersion, Timings
from p2u.client.live.waiting import Waiting
from p2u.client.transfer.control import Progress
from p2u.errors import P2UError, UsageError
from p2u.one_process import OneProcess
from p2u.stores import Store

if TYPE_CHECKING:
    import numpy as np


class Replica(OneProcess):
    """A live copy of a package in memory; made by ``p2u.open``. Thread-safe.

    Threads in the background fetch and check chunks. From the first state on, the tensors are
    usable; at the state wanted they rest. See ``docs/live.md`` for modes, staging and pins.

    Args:
        source: Path or URL of the package, or an open store.
        plan: The options.
        early: This source, open already, for the first attempt.

    Raises:
        UsageError: An argument is wrong.
        NotFoundError: A local package that does not exist.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Store,
        plan: LivePlan,
        early: Store | None = None,
    ) -> None:
        self._parts = parts = make_parts(source, plan, early)
        self._status = parts.status
        self._waiting = Waiting(parts)
        self._transfer = LiveTransfer(parts)
        self._arrays: Mapping[str, np.ndarray[Any, Any]] | None = None
        self._arrays_of: frozenset[int | None] = frozenset()
        self.register_forks()
        self._transfer.start()

    @property
    def state(self) -> str | None:
        """Label of the state that the tensors hold; None before the first.

        In eager mode, that is the last complete one, and tensors may be sharper.
        """
        state = self._status.state
        return state.label if state is not None else None

    @property
    def version(self) -> str | None:
        """Name of the version that the tensors are of, ``"v2"``; None before the first state.

        While a state is pinned, it is that state's.
        """
        state = self._status.state
        return state.version if state is not None else None

    @property
    def id(self) -> str | None:
        """Id of the state that the tensors hold, ``"v2@exact"``; None before the first."""
        state = self._status.state
        return state.id if state is not None else None

    @property
    def states(self) -> tuple[str, ...]:
        """Labels of the states on the route, in order; empty until the manifest is here."""
        return tuple(self._status.route.labels.values())

    @property
    def mode(self) -> str:
        """``"eager"`` or ``"atomic"``."""
        return self._parts.plan.mode

    @property
    def staging(self) -> str | None:
        """The staging of the last update: ``"direct"``, ``"copy"`` or ``"chunks"``.

        None before the first update.
        """
        return self._transfer.applier.staging

    @property
    def error(self) -> BaseException | None:
        """The error that ended the transfer, or keeps a newer version away; None if all is well."""
        fault = self._status.fault
        return fault.error if fault is not None else None

    @property
    def commits(self) -> tuple[Commit, ...]:
        """Each change from one state to the next so far, and how long it kept callers waiting."""
        return self._parts.listeners.commits

    @property
    def tensors(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Name to array in the original dtype: read-only views of the live memory, no copies.

        While nobody pins a state, or in eager mode, a reader may see rows of this and of the next
        state side by side. A name that several files have is preceded by the file's path and a
        colon.

        Raises:
            UsageError: No state is complete yet: ``wait("base")`` first.
        """
        with self._status.changed:
            memory = self.memory
            here = frozenset(memory.here.places.tensors)
            if self._arrays is None or self._arrays_of != here:
                self._arrays = TensorView(memory.arrays(writable=False))
                self._arrays_of = here
            return self._arrays

    @property
    def files(self) -> Mapping[str, memoryview]:
        """Path to the bytes of each file of the model, read-only; configuration, tokenizer.

        A file whose tensors moved within it, or came from another one, is copied when it is asked
        for.

        Raises:
            UsageError: No state is complete yet.
        """
        return self.memory.files()

    @property
    def memory(self) -> ModelMemory:
        """Layout and writable memory of all files, for adapters that make their own views.

        Raises:
            UsageError: No state is complete yet.
        """
        self._waiting.need_state()
        return self._transfer.applier.files

    @property
    def progress(self) -> Progress:
        """The progress of the transfer."""
        with self._status.changed:
            meter, route = self._parts.connection.package.meter, self._status.route
            return Progress(
                self.state,
                route.target if self._status.running else None,
                meter.done,
                route.marks[-1][1] if route.marks else 0,
                meter.rate(),
                meter.seconds,
                route.marks,
            )

    def wait(self, state: str | None = None, timeout: float | None = None) -> None:
        """Return when a state is complete.

        Args:
            state: Its label, its id, or the name of a version. A label means the newest version on
                the first route that has it. By default the last state of the first route, or after
                `refresh` and while following, the newest that was found. ``"best"``: the best one
                that the bandwidth measured can deliver by the replica's deadline, or the first.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It took longer.
            UsageError: This replica does not come by such a state, or this thread has pinned an
                earlier one. (One that follows waits for versions that are not published yet.)
            P2UError: The error that ended the transfer before the state was complete, or that
                keeps a newer version away. A failure that is being tried again is not raised.
        """
        self._waiting.wait(state, timeout)

    def pinned(
        self, require: str | None = None, timeout: float | None = None, *, brief: bool = False
    ) -> Pinned:
        """Hold a state: ``with replica.pinned() as state:`` gives its label.

        Within the block the tensors are of that state and do not change, in atomic mode; eager mode
        holds nothing. Any number of threads may pin, and a thread again what it has pinned. The
        next state waits for them all; other callers do not, as long as it has waited less than
        ``patience``.

        Args:
            require: Label or id of the worst state that will do; wait for it. By default the first;
                ``"best"`` as in `wait`.
            timeout: Most seconds to wait.
            brief: For one call of the model, soon over: others may be kept waiting for it.

        Raises:
            The errors of `wait`; IntegrityError or FormatError where a faulty package has left the
            memory without a valid state.
        """
        return Pinned(self, require, timeout, brief)

    def on_state(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(label)`` for each state that is complete, those before now at once.

        Calls come from a background thread (at once: from this one), and nobody is kept waiting for
        them. The tensors do not change before they return: the next state waits.
        """
        self._parts.listeners.add_callback(callback)

    def on_commit(
        self, action: Callable[[str], None], *, check: Callable[[], None] | None = None
    ) -> None:
        """Call ``action(label)`` as a part of each later commit, for copies that have to agree.

        The tensors hold the new state, and nobody has a pin until it returns. If it raises an
        error, the transfer ends, and no state can be pinned any more.

        Args:
            action: Called with the label of the new state.
            check: Called first, while the tensors hold the old state and nobody has a pin. An error
                that it raises ends the transfer, too, but the old state stays; `resume` goes on.
        """
        self._parts.listeners.add_action(action, check)

    def refresh(self) -> None:
        """Look for a newer version now, and go on to the newest one; returns at once.

        `wait` waits until that is done. The new version is staged in memory of its own; all of its
        files are checked, and it takes effect at one moment when nobody has pinned a state.
        Versions between are left out. A first route that is not complete yet is completed first.

        Raises:
            Cancelled: The replica was cancelled.
            P2UError: The memory has no valid state any more.
        """
        if self._parts.plan.hold:
            raise UsageError("this replica stages its versions", hint="Use fetch() and commit()")
        if self.mode != "atomic":
            raise UsageError("an eager replica cannot change versions", hint='mode="atomic"')
        self._transfer.refresh()

    def fetch(
        self, version: str | None = None, timeout: float | None = None
    ) -> StagedVersion | None:
        """Stage a version next to the model, which stays as it is until its `commit`.

        For engines, which have the weights in memory of their own. What an earlier call has staged
        is dropped. One thread at a time.

        Args:
            version: Name of a version, or id of a state; it may be an older one. None: the newest.
            timeout: Most seconds to wait.

        Returns:
            The version; None if the replica has it already. Until a first version was committed,
            the state in memory is given where there is nothing newer.

        Raises:
            UsageError: The package has no such version, or the plan does not hold versions.
            TimeoutError: It took longer; what has come is kept for the same call again.
            P2UError: What keeps the version away; the replica stays as it is. Call again.
        """
        if not self._parts.plan.hold:
            raise UsageError("this replica commits versions by itself", hint="LivePlan(hold=True)")
        begin = time.monotonic()
        end = None if timeout is None else begin + timeout
        if self._status.running:
            # The first route, or an earlier call that took too long. An error comes again.
            with contextlib.suppress(P2UError):
                self._wait_until(end, timeout)
        self._transfer.ask(version)
        self._wait_until(end, timeout)
        if self._transfer.unknown:
            raise UsageError(
                f"the package has no version {version!r}", file=self._parts.connection.package.url
            )
        timings = Timings()
        staged = self._transfer.staged(timings)
        timings.fetch = time.monotonic() - begin - timings.check
        return staged

    def _wait_until(self, end: float | None, timeout: float | None) -> None:
        """Wait until the thread has done what it was asked for."""
        try:
            self.wait(timeout=None if end is None else max(0.0, end - time.monotonic()))
        except TimeoutError as error:
            raise TimeoutError(f"no version is complete after {timeout} s") from error

    def resume(self) -> None:
        """Go on after an error, with what is missing; nothing if the transfer runs or is complete.

        Raises:
            Cancelled: It was cancelled.
            P2UError: The error, if it was one that trying again cannot mend.
        """
        self._transfer.resume()

    def cancel(self) -> None:
        """Stop the transfer for good, and free what it holds.

        The tensors stay as they are: in eager mode they may be between two states.
        """
        self._transfer.cancel()

    def close(self) -> None:
        """The same as `cancel`, by the name that other libraries give it."""
        self.cancel()

    def __repr__(self) -> str:
        url, phase = self._parts.connection.package.url, self._status.phase.value
        found = f"<p2u.Replica of {url} at {self.id or 'nothing yet'}, {phase}"
        return f"{found}: {self.error}>" if self.error is not None else f"{found}>"

    def _repr_html_(self) -> str:
        """Shown by notebooks."""
        return progress_html(repr(self), self.progress)

    def before_fork(self) -> None:
        """See `OneProcess.before_fork`."""
        self._parts.pins.before_fork()

    def after_fork(self, *, child: bool) -> None:
        """See `OneProcess.after_fork`: a child has its copy of the tensors, which stay as they are.

        Its pins, waits and calls go on with that state; what needs another one raises UsageError.
        """
        torn = self._parts.pins.after_fork(child=child)
        if child:
            self._status.fork(torn=torn)
            self._parts.listeners.fork()
            self._parts.connection.package.meter.fork()

    def __deepcopy__(self, memo: dict[int, object]) -> Replica:
        """A handle of something that runs: the copy of a model that carries it has the same."""
        return self

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Replica:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        await asyncio.to_thread(self.cancel)


class Pinned:
    """A state held for the time of a block; made by `Replica.pinned`.

    Adapters call `enter` and `leave` where there is no block.
    """

    def __init__(
        self, replica: Replica, require: str | None, timeout: float | None, brief: bool
    ) -> None:
        self._replica = replica
        self._require = require
        self._timeout = timeout
        self._brief = brief
        self._pin: Pin | None = None

    def enter(self, frame: FrameType | None = None) -> str:
        """Pin; with a frame, also until that frame of this thread has ended.

        Raises:
            See `Replica.pinned`.
        """
        replica = self._replica
        begin = time.monotonic()
        replica._waiting.wait_for_pin(self._require, self._timeout)
        if replica.mode == "atomic":
            left = None
            if self._timeout is not None:
                left = max(0.0, begin + self._timeout - time.monotonic())
            pins = replica._parts.pins
            self._pin = pins.pin(brief=self._brief, timeout=left, frame=frame)
        try:
            replica._status.check_memory()
        except BaseException:
            self.leave()
            raise
        label = replica.state
        assert label is not None
        return label

    def leave(self) -> None:
        """Release the state; any number of times."""
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.release()

    def __enter__(self) -> str:
        return self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()
