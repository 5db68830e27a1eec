"""Call the user's functions with each state of a live model, and record its commits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from p2u.client.live.phase import LiveStatus
from p2u.package.manifest import State

_log = logging.getLogger("p2u")


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


class Listeners:
    """Reports each state to the status and to the user's functions. Thread-safe.

    Args:
        status: Of the model.
    """

    def __init__(self, status: LiveStatus) -> None:
        self._status = status
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[str], None]] = []
        self._actions: list[Callable[[str], None]] = []
        self._checks: list[Callable[[], None]] = []
        self._commits: list[Commit] = []

    @property
    def commits(self) -> tuple[Commit, ...]:
        """All commits so far."""
        with self._lock:
            return tuple(self._commits)

    def add_callback(self, callback: Callable[[str], None]) -> None:
        """See `Replica.on_state`."""
        with self._status.changed:
            self._callbacks.append(callback)
            labels = self._status.route.labels
            before = [labels[id_] for id_ in self._status.complete]
        for label in before:
            callback(label)

    def fork(self) -> None:
        """This is the child of a fork, where nobody holds the lock."""
        self._lock = threading.Lock()

    def add_action(
        self, action: Callable[[str], None], check: Callable[[], None] | None = None
    ) -> None:
        """See `Replica.on_commit`."""
        with self._lock:
            self._actions.append(action)
            if check is not None:
                self._checks.append(check)

    def check(self) -> None:
        """Ask those with actions whether the next state can be committed; raise what they raise."""
        with self._lock:
            checks = tuple(self._checks)
        for check in checks:
            check()

    def commit(self, state: State, commit: Callable[[], None], waited: float) -> None:
        """Change the memory from one state to the next; nobody has a pin.

        Args:
            state: The next one.
            commit: Changes the memory.
            waited: Seconds for which pins have kept it waiting.
        """
        begin = time.monotonic()
        first = self._status.state is None
        commit()
        self._status.replace(state)
        with self._lock:
            actions = tuple(self._actions)
        for action in actions:
            action(state.label)
        if not first:
            pause = time.monotonic() - begin
            _log.debug("commit to %s: %.1f ms, after %.3f s", state.id, 1e3 * pause, waited)
            with self._lock:
                self._commits.append(Commit(state.label, pause, waited, state.id))

    def announce(self, state: State) -> None:
        """The state is complete and checked."""
        _log.debug("%s is here", state.id)
        with self._status.changed:
            self._status.announce(state)
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            try:
                callback(state.label)
            except Exception:  # noqa: BLE001 - whatever it raises
                # The transfer is not the callback's: it goes on.
                _log.exception("a callback of Replica.on_state failed")
