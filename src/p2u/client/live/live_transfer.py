"""Run the transfer of a live model in a thread: its first route, then newer versions."""

from __future__ import annotations

import threading

from p2u.client.live.applying import Applier
from p2u.client.live.first_route import FirstRoute
from p2u.client.live.follow import Follower
from p2u.client.live.parts import LiveParts
from p2u.client.live.phase import FaultKind
from p2u.client.live.phase_times import PhaseTimes
from p2u.client.live.staged_version import StagedVersion, Timings
from p2u.client.live.staging.chained import ChainedUpdate
from p2u.errors import P2UError


class LiveTransfer:
    """Fetches and applies updates in a thread of its own.

    Args:
        parts: Of the model.

    Attributes:
        applier: Of its memory.
    """

    def __init__(self, parts: LiveParts) -> None:
        self.applier = Applier(parts)
        self._stop = parts.stop
        self._status = parts.status
        self._connection = parts.connection
        self._listeners = parts.listeners
        #: Whether the caller has committed a version.
        self._taken = False
        self._follows = parts.plan.follow is not None
        self._first_route = FirstRoute(parts, self.applier)
        self._follower = Follower(parts, self.applier)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the one before has ended."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="p2u-replica")
        self._thread.start()

    def refresh(self) -> None:
        """See `LiveStatus.refresh`."""
        with self._status.changed:
            if self._status.refresh():
                self.start()

    def ask(self, version: str | None) -> None:
        """Stage a version, or the newest; no thread runs, and one is started.

        Raises:
            The errors of `LiveStatus.refresh`.
        """
        self._follower.ask(version)
        self.applier.times = PhaseTimes()
        self.refresh()

    @property
    def unknown(self) -> bool:
        """Whether the package did not have the version that was asked for; no thread runs."""
        return self._follower.unknown

    def staged(self, timings: Timings) -> StagedVersion | None:
        """What `ask` has led to, else what the memory has; None once a version was committed.

        Args:
            timings: To be completed.
        """
        times, here = self.applier.times, self._status.state
        timings.decode, timings.check = times.decode, times.check
        found = self._follower.staged
        assert here is not None
        if found is not None:
            step, target = found
            return StagedVersion(self, self.applier.files, here, target, step, timings)
        if self._taken:
            return None
        return StagedVersion(self, self.applier.files, None, here, None, timings)

    def holds(self, step: ChainedUpdate) -> bool:
        """Whether an update is the one that waits for its commit."""
        found = self._follower.staged
        return found is not None and found[0] is step

    def take(self) -> None:
        """The caller has taken the first version, which is in memory."""
        self._taken = True

    def commit(self, *, keep: bool) -> float:
        """See `Follower.commit`; returns the seconds of the pause."""
        self._follower.commit(keep=keep)
        self._taken = True
        return self._listeners.commits[-1].pause

    def rollback(self) -> None:
        """See `Follower.rollback`."""
        self._follower.rollback()

    def discard(self, step: ChainedUpdate) -> None:
        """Drop an update that waits for its commit; nothing if it does not."""
        if self.holds(step):
            self._follower.drop()

    def resume(self) -> None:
        """See `LiveStatus.resume`."""
        with self._status.changed:
            if self._status.resume():
                self.start()

    def cancel(self) -> None:
        """End the transfer for good, and wait for the thread."""
        if self._status.forked:
            return  # store and thread are the parent's
        self._stop.call()
        self._connection.end()
        with self._status.changed:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            self._follower.drop()

    def _run(self) -> None:
        while True:
            error: BaseException | None = None
            try:
                self._attempt()
            except BaseException as raised:  # noqa: BLE001 - raised again by wait()
                error = raised
            if error is not None and self._status.retry(error):
                continue
            broken = self._first_route.broken or self._follower.broken
            if self._status.end(error, FaultKind.PACKAGE if broken else FaultKind.RETRY):
                return

    def _attempt(self) -> None:
        """Go on from where the last attempt ended, to the state wanted, and to newer ones.

        Raises:
            P2UError: The attempt has failed.
        """
        self._connection.renew()
        try:
            self._refine()
            while self._status.next_look(self._follower.package_error):
                self._follower.advance()
        finally:
            self._connection.close()
            if self._stop.called:
                self._first_route.drop()
                self._follower.drop()
            if self._stop.called or (self._first_route.complete and not self._follows):
                self._connection.end()

    def _refine(self) -> None:
        try:
            self._first_route.run()
        except P2UError as error:
            stuck = self._first_route.broken and not self._status.memory_fault
            if not self._follows or not stuck or self._status.state is None:
                raise
            # A later version may do without the part that is broken.
            self._first_route.end_here()
            self._follower.give_up(error, self._connection.package.manifest)
