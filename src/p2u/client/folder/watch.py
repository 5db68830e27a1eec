"""``p2u.watch``: keep a folder at the newest version of a package."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.pull import run_pull
from p2u.client.folder.pull_task import PullTask
from p2u.client.transfer.control import Meter, Progress, Stop
from p2u.client.transfer.options import TransferOptions
from p2u.errors import (
    BusyError,
    Cancelled,
    DiskError,
    FormatError,
    IntegrityError,
    LimitError,
    P2UError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from p2u.package.manifest import MAX_MANIFEST
from p2u.package.paths import MANIFEST_KEY
from p2u.stores import Store, open_store
from p2u.stores.backoff import Backoff, Retry

__all__ = ["Watched", "watch"]

#: Seconds between two tries while something is wrong, at most, unless the looks are rarer still.
_LONGEST = 60.0
#: Seconds that a hook has to end when it is asked to.
_GRACE = 5.0

#: Errors that pass, or that the publisher can mend. Usage errors are among them once there was a
#: version: the newest one may lack a state that the one before has.
_PASSING = (
    StoreError,
    IntegrityError,
    FormatError,
    UnsupportedError,
    LimitError,
    DiskError,
    BusyError,
)
#: Seconds that a server may ask for within a pull; after more of them the watch waits itself.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Watched:
    """Something that happened.

    Attributes:
        kind: ``"commit"``: the folder is another state now; ``"hook"``: the command has ended;
            ``"error"``: something is wrong, and it will be tried again; ``"warning"``: a broken
            update was gone around.
        state: Id of the folder's state, ``"v2@exact"``; None before the first.
        bytes: Fetched for a commit.
        seconds: That a commit or a hook took.
        status: The hook's exit status; negative: the signal that ended it.
        message: Of an error or a warning.
        error: Name of the error's class.
    """

    kind: str
    state: str | None
    bytes: int = 0
    seconds: float = 0.0
    status: int = 0
    message: str = ""
    error: str = ""

    @property
    def version(self) -> str | None:
        """Name of the folder's version, ``"v2"``; None before the first."""
        return None if self.state is None else self.state.partition("@")[0]


def watch(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    every: float = 5.0,
    until: str = "exact",
    execute: str | None = None,
    in_place: bool = False,
    repair: bool = False,
    jobs: int | None = None,
    limit_rate: float | str | None = None,
    max_bytes: int | None = None,
    on_event: Callable[[Watched], None] | None = None,
    stop: threading.Event | None = None,
    output: int | None = None,
    meter: Meter | None = None,
) -> None:
    """Pull each version of a package to a folder as it is published, until ``stop`` is set.

    Versions that come while one is pulled are left out for the newest. While the package cannot be
    read, or is not there yet, it is tried again, more and more seldom up to once a minute; the
    folder stays at its state.

    Args:
        source: Path or URL of the package.
        target: The folder; made if missing.
        every: Seconds between two looks. A server is asked for changes only.
        until: Label of the state wanted of each version.
        execute: A shell command, run after each commit and before the folder changes again, with
            ``P2U_STATE`` (``v2@exact``), ``P2U_VERSION`` (``v2``) and ``P2U_DIR`` (an absolute
            path) in its environment. A failure is reported, and the folder is unaffected. It is
            not run for the state that the folder holds at the beginning.
        in_place: Refine the files where they are; see ``p2u.pull``.
        repair: Overwrite files that were changed since.
        jobs: Threads; see `p2u.TransferOptions`.
        limit_rate: Most bytes per second; see `p2u.TransferOptions`.
        max_bytes: Most bytes of a version's files; see `p2u.TransferOptions`.
        on_event: Called with what happened, in this thread.
        stop: Set it to end, from another thread; within a second.
        output: File descriptor for the hook's standard output.
        meter: Counts what all pulls together fetch; other threads may read it.

    Raises:
        UsageError: An argument is wrong, or the folder holds something else. Later on, such errors
            are reported as others are, and the watch tries again.
    """
    if not every > 0:
        raise UsageError(f"every is {every:g} s", hint="It is in seconds, above 0")
    retry = Retry(most_asked=_PATIENCE)
    options = TransferOptions(jobs=jobs, limit_rate=limit_rate, max_bytes=max_bytes, retry=retry)
    watcher = _Watcher(source, Path(target), execute, on_event, stop, output)
    task = PullTask(
        until=until, in_place=in_place, repair=repair,
        progress=watcher.progress, on_state=watcher.committed, each_state=execute is not None,
        meter=meter,
    )  # fmt: skip
    new_stop = watcher.new_stop
    watcher.run(every, lambda: run_pull(source, target, task, options, new_stop=new_stop).warnings)


class _Watcher:
    """One call of `watch`."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        target: Path,
        execute: str | None,
        on_event: Callable[[Watched], None] | None,
        stop: threading.Event | None,
        output: int | None,
    ) -> None:
        self._source = source
        self._target = target
        self._execute = execute
        self._report = on_event or (lambda event: None)
        self._stop = stop or threading.Event()
        self._output = output
        self._store: Store | None = None
        self._transfer: Stop | None = None
        self._ended = threading.Event()
        self._state = self._find_state()
        self._begin = time.monotonic()
        self._done = self._before = 0

    def run(self, every: float, fetch: Callable[[], tuple[str, ...]]) -> None:
        """Look, pull, wait."""
        mark, due, failures, said = "", True, 0, ""
        passing: tuple[type[P2UError], ...] = _PASSING
        longest = max(_LONGEST, every)
        backoff = Backoff(every, longest, most_asked=longest)
        threading.Thread(target=self._guard, daemon=True, name="p2u-watch").start()
        try:
            while not self._stop.is_set():
                wait = every
                try:
                    changed, mark = self._poll(mark)
                    due = due or changed
                    if due:
                        self._begin, self._done, self._before = time.monotonic(), 0, 0
                        for message in fetch():
                            self._report(Watched("warning", self._state, message=message))
                        due, passing = False, (*_PASSING, UsageError)
                    failures, said = 0, ""
                except passing as error:
                    if self._stop.is_set():
                        return
                    failures += 1
                    asked = error.retry_after if isinstance(error, StoreError) else None
                    wait = backoff.delay(failures, asked)
                    if str(error) != said:
                        said = str(error)
                        kind = type(error).__name__
                        self._report(Watched("error", self._state, message=said, error=kind))
                except Cancelled:
                    return
                self._stop.wait(wait)
        finally:
            self._ended.set()
            self._close()

    def new_stop(self) -> Stop:
        """The cancellation of the next transfer; it is called when the watch is to end."""
        stop = self._transfer = Stop()
        if self._stop.is_set():
            stop.call()
        return stop

    def _guard(self) -> None:
        """End what this watch waits for when it is to end: a server may be silent for long."""
        while not self._stop.wait(0.2):
            if self._ended.is_set():
                return
        if self._transfer is not None:
            self._transfer.call()
        store = self._store
        if store is not None:
            store.close()

    def _poll(self, mark: str) -> tuple[bool, str]:
        """Whether the manifest has changed."""
        try:
            if self._store is None:
                self._store = open_store(self._source)
            data, mark = self._store.poll(MANIFEST_KEY, limit=MAX_MANIFEST, mark=mark)
        except BaseException:
            self._close()
            raise
        return data is not None, mark

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def progress(self, progress: Progress) -> None:
        """Called while it pulls."""
        self._done = progress.done
        if self._stop.is_set():
            raise Cancelled("the watch was ended")

    def committed(self, _: str) -> None:
        """The folder holds a state, maybe the one that it had."""
        state = self._find_state()
        if state is None or state == self._state:
            return
        now = time.monotonic()
        self._state = state
        size, self._before = self._done - self._before, self._done
        self._report(Watched("commit", state, size, now - self._begin))
        if self._execute is not None:
            self._hook(state, self._execute)
        self._begin = time.monotonic()

    def _find_state(self) -> str | None:
        try:
            found = state_file.read(self._target)
        except (FormatError, OSError):
            return None  # `pull` says what is wrong
        return None if found is None else found.state

    def _hook(self, state: str, command: str) -> None:
        begin = time.monotonic()
        names = {
            "P2U_STATE": state,
            "P2U_VERSION": state.partition("@")[0],
            "P2U_DIR": str(self._target.resolve()),
        }
        ended = threading.Event()
        # In a thread, which Ctrl-C does not interrupt while it starts the process.
        with ThreadPoolExecutor(1, "p2u-hook") as pool:
            try:
                status = pool.submit(self._run_hook, command, names, ended).result()
            except OSError as error:
                message = f"the command could not be started: {error.strerror or error}"
                self._report(Watched("error", state, message=message, error="OSError"))
                return
            finally:
                ended.set()
        if status is None:
            raise Cancelled("the watch was ended")
        spent = time.monotonic() - begin
        self._report(Watched("hook", state, seconds=spent, status=status))

    def _run_hook(self, command: str, names: dict[str, str], ended: threading.Event) -> int | None:
        """The command's exit status; None if it was ended with the watch."""
        process = subprocess.Popen(
            command,
            shell=True,
            env={**os.environ, **names},
            stdout=self._output,
            # A group of its own, so that all of it can be ended.
            start_new_session=sys.platform != "win32",
        )
        try:
            while not self._stop.is_set() and not ended.is_set():
                try:
                    return process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
            return None
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a hook to end, and end it."""
    if sys.platform == "win32":
        process.terminate()
    else:
        import signal

        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
