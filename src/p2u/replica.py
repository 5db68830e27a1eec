"""``p2u.open``: a model in memory that sharpens while it is used."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from p2u._client.control import Progress, Stop
from p2u._client.fetch import Retry
from p2u._client.memory import Files
from p2u._client.package import Package, find_state
from p2u.errors import UsageError
from p2u.plan import find_path
from p2u.stores import Store

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Progress", "Replica", "load", "open_replica"]

_log = logging.getLogger("p2u")


class Replica:
    """A live copy of a package in memory; made by ``p2u.open``. Thread-safe.

    Threads in the background fetch, check and apply chunk by chunk. From the base on, the tensors
    are usable; their values sharpen in place as chunks arrive, and at the state wanted they rest.
    """

    def __init__(self, package: Package, until: str, check: bool) -> None:
        self._package = package
        self._until = until
        self._check = check
        self._changed = threading.Condition()
        self._files: Files | None = None
        self._states: list[str] = []
        self._labels: dict[str, str] = {}
        self._target: str | None = None
        self._marks: tuple[tuple[str, int], ...] = ()
        self._error: BaseException | None = None
        self._ended = False
        self._callbacks: list[Callable[[str], None]] = []
        self._arrays: Mapping[str, np.ndarray[Any, Any]] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="p2u-replica")
        self._thread.start()

    @property
    def state(self) -> str | None:
        """Label of the state that is complete; None before the base."""
        with self._changed:
            return self._states[-1] if self._states else None

    @property
    def tensors(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Name to array in the original dtype: read-only views of the live memory, no copies.

        While updates arrive, a reader may see rows of this and of the next state side by side. A
        name that several files have is preceded by the file's path and a colon.

        Raises:
            UsageError: No state is complete yet: ``wait("base")`` first.
        """
        with self._changed:
            if self._arrays is None:
                if not self._states:
                    self._raise_error()
                self._arrays = MappingProxyType(self._need_files().arrays(writable=False))
            return self._arrays

    @property
    def files(self) -> Mapping[str, memoryview]:
        """Path to the bytes of each file of the model, read-only; configuration, tokenizer.

        Raises:
            UsageError: No state is complete yet.
        """
        with self._changed:
            if not self._states:
                self._raise_error()
            return self._need_files().carried()

    @property
    def progress(self) -> Progress:
        """How far the transfer is."""
        with self._changed:
            meter = self._package.meter
            return Progress(
                self._states[-1] if self._states else None,
                self._target,
                meter.done,
                self._marks[-1][1] if self._marks else 0,
                meter.rate(),
                meter.seconds,
                self._marks,
            )

    def wait(self, state: str | None = None, timeout: float | None = None) -> None:
        """Return when a state is complete.

        Args:
            state: Its label or id; by default the last one of this replica.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It took longer.
            UsageError: This replica does not come by such a state.
            P2UError: Whatever ended the transfer before the state was complete.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._reached(state):
                self._raise_error()
                if self._ended:
                    raise UsageError("the replica has ended without this state")
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"state {state or self._until!r} not reached in {timeout} s")
                # Short waits, so that Ctrl-C works on every system.
                self._changed.wait(0.2 if left is None else min(0.2, left))

    def on_state(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(label)`` for each state that is complete, those before now at once.

        Calls come from a background thread (at once: from this one). Keep them short: the next
        state waits.
        """
        with self._changed:
            self._callbacks.append(callback)
            before = tuple(self._states)
        for label in before:
            callback(label)

    def cancel(self) -> None:
        """Stop the transfer. Tensors stay as they are; after a state they may be between two."""
        self._package.stop.call()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Replica:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def _reached(self, state: str | None) -> bool:
        if state is None:
            return self._ended and self._error is None
        if state in self._states:
            return True
        if not self._labels:
            return False  # the manifest is not here yet
        if state in self._labels:
            return self._labels[state] in self._states
        if state not in self._labels.values():
            raise UsageError(
                f"this replica does not come by a state {state!r}; it has "
                f"{', '.join(self._labels.values())}"
            )
        return False

    def _need_files(self) -> Files:
        if self._files is None or not self._states:
            raise UsageError("no state is complete yet", hint='Call wait("base") first')
        return self._files

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with self._package:
                self._transfer()
        except BaseException as error:  # noqa: BLE001 - raised again by wait()
            with self._changed:
                self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._target = None
                self._changed.notify_all()

    def _transfer(self) -> None:
        package = self._package
        manifest = package.manifest
        want = find_state(manifest, self._until)
        way = find_path(manifest.updates, None, want.id)
        labels = {state.id: state.label for state in manifest.states}
        with self._changed:
            self._labels = {update.target: labels[update.target] for update in way}
            self._marks = package.marks(way)
        for update in way:
            with self._changed:
                self._target = labels[update.target]
            chunks = package.index(update)
            if self._files is None:
                self._files = Files(package, self._check)
            self._files.start(update, chunks)
            package.fetcher.run(update.blobs, chunks, self._files.apply)
            self._announce(labels[update.target])

    def _announce(self, label: str) -> None:
        with self._changed:
            self._states.append(label)
            callbacks = tuple(self._callbacks)
            self._changed.notify_all()
        for callback in callbacks:
            try:
                callback(label)
            except Exception:  # noqa: BLE001 - whatever it raises
                # The transfer is not the callback's: it goes on.
                _log.exception("a callback of Replica.on_state failed")


def open_replica(
    source: str | os.PathLike[str] | Store,
    *,
    jobs: int | None = None,
    until: str = "exact",
    limit_rate: float | str | None = None,
    check: bool = True,
    retry: Retry | None = None,
) -> Replica:
    """Open a package as a live model in memory; returns at once.

    Args:
        source: Path or URL of the package, or an open store (which is closed at the end).
        jobs: Threads that fetch and decode.
        until: Label or id of the last state wanted.
        limit_rate: Bytes per second, or text such as ``"2MB/s"``.
        check: Compare each file with its SHA-256 whenever a state is complete. Each chunk's hash
            is checked in any case.
        retry: When to try again after failures of the store.

    Raises:
        UsageError: An argument is wrong. What goes wrong later, `Replica.wait` raises.
        NotFoundError: A local package that does not exist.
    """
    package = Package(source, jobs=jobs, limit_rate=limit_rate, stop=Stop(), retry=retry)
    return Replica(package, until, check)


def load(
    source: str | os.PathLike[str] | Store, state: str = "base", *, jobs: int | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of one state of a package, by name, writable.

    Args:
        source: Path or URL of the package, or an open store.
        state: Label or id.
        jobs: Threads.

    Raises:
        P2UError: See ``p2u.pull``.
    """
    replica = open_replica(source, jobs=jobs, until=state)
    try:
        replica.wait()
        return replica._need_files().arrays(writable=True)
    finally:
        replica.cancel()
