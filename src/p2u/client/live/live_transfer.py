"""Run the transfer of a live model in a thread: its first route, then newer versions."""

from __future__ import annotations

import os
import threading

from p2u.client.live.applying import Applier
from p2u.client.live.connection import Connection
from p2u.client.live.first_route import FirstRoute
from p2u.client.live.follow import Follower
from p2u.client.live.listeners import Listeners
from p2u.client.live.phase import FaultKind, LiveStatus
from p2u.client.live.pins import Pins
from p2u.client.live.plan import LivePlan
from p2u.client.transfer.control import Stop
from p2u.errors import P2UError
from p2u.stores import Store


class LiveTransfer:
    """Makes the parts of a live model, and runs their transfer in a thread of its own.

    Args:
        source: Path or URL of the package, or an open store.
        plan: The options.
        early: This source, open already, for the first attempt.

    Attributes:
        status: Phase, fault and state.
        pins: Of the memory.
        connection: To the package.
        applier: Of the memory.
        listeners: The user's.

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
        self.plan = plan
        self._stop = Stop()
        self.connection = Connection(source, plan.transfer, self._stop, early)
        self.status = LiveStatus(self._stop, self.connection.package.url, plan.follow)
        self.pins = Pins(plan.patience)
        self._stop.on_call(self.pins.wake)
        self.listeners = Listeners(self.status)
        self.applier = Applier(plan, self.connection, self.status, self.pins, self.listeners)
        parts = plan, self.connection, self.status, self.applier, self.listeners
        self._first_route = FirstRoute(*parts)
        self._follower = Follower(*parts)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the one before has ended."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="p2u-replica")
        self._thread.start()

    def refresh(self) -> None:
        """See `LiveStatus.refresh`."""
        with self.status.changed:
            if self.status.refresh():
                self.start()

    def resume(self) -> None:
        """See `LiveStatus.resume`."""
        with self.status.changed:
            if self.status.resume():
                self.start()

    def cancel(self) -> None:
        """End the transfer for good, and wait for the thread."""
        self._stop.call()
        self.connection.end()
        with self.status.changed:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            error: BaseException | None = None
            try:
                self._attempt()
            except BaseException as raised:  # noqa: BLE001 - raised again by wait()
                error = raised
            if error is not None and self.status.retry(error):
                continue
            broken = self._first_route.broken or self._follower.broken
            if self.status.end(error, FaultKind.PACKAGE if broken else FaultKind.RETRY):
                return

    def _attempt(self) -> None:
        """Go on from where the last attempt ended, to the state wanted, and to newer ones.

        Raises:
            P2UError: The attempt has failed.
        """
        self.connection.renew()
        try:
            self._refine()
            while self.status.next_look(self._follower.package_error):
                self._follower.advance()
        finally:
            self.connection.close()
            if self._stop.called:
                self._first_route.drop()
                self._follower.drop()
            if self._stop.called or (self._first_route.complete and self.plan.follow is None):
                self.connection.end()

    def _refine(self) -> None:
        try:
            self._first_route.run()
        except P2UError as error:
            stuck = self._first_route.broken and not self.status.memory_fault
            if self.plan.follow is None or not stuck or self.status.state is None:
                raise
            # A later version may do without the part that is broken.
            self._first_route.end_here()
            self._follower.give_up(error, self.connection.package.manifest)
