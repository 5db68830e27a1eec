"""A live ONNX Runtime session: runs from the base on, and is replaced at each state."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from p2u.adapters.onnx.feed import feeds, split
from p2u.client.folder.pull import PullResult, run_pull
from p2u.client.folder.pull_task import PullTask
from p2u.client.live.waiting import BEST
from p2u.client.transfer.control import Progress, too_late, wait_briefly
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.disk.errors import TRY_AGAIN, disk_errors
from p2u.disk.files import link_or_copy
from p2u.disk.scratch import TemporaryFolder
from p2u.errors import Cancelled, UsageError
from p2u.one_process import OneProcess
from p2u.stores.backoff import Retry

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, SessionOptions

__all__ = ["Session", "session"]

_log = logging.getLogger("p2u")


@dataclass(frozen=True, slots=True)
class _Live:
    """The session of one state, with its weights if they are inputs."""

    state: str
    inference: InferenceSession
    weights: Mapping[str, OrtValue]

    def run(
        self, outputs: Sequence[str] | None, feed: Mapping[str, Any], run_options: Any
    ) -> list[Any]:
        if not self.weights:
            found: list[Any] = self.inference.run(outputs, feed, run_options)
            return found
        from onnxruntime import OrtValue

        names = outputs or [output.name for output in self.inference.get_outputs()]
        given = {
            name: value if isinstance(value, OrtValue) else OrtValue.ortvalue_from_numpy(value)
            for name, value in feed.items()
        }
        values = self.inference.run_with_ort_values(names, {**given, **self.weights}, run_options)
        return [value.numpy() for value in values]


#: In a forked child, the sessions of its parent: to free one without its threads hangs, or crashes.
_never_freed: list[InferenceSession] = []


class Session(OneProcess):
    """Like an ``onnxruntime.InferenceSession`` of a packed model; made by ``p2u.onnx.session``.

    ONNX Runtime cannot change the weights of a session, so each state gets a new one, built in the
    background and exchanged between runs; a run that has begun ends with the session it began
    with, which is freed then. All other attributes are those of the session that answers now.
    """

    def __init__(self, source: str | os.PathLike[str], settings: _SessionSettings) -> None:
        self._source = source
        self._settings = settings
        self._scratch: Callable[[], object] | None = None
        if settings.directory is None:
            with disk_errors(tempfile.gettempdir(), "write", TRY_AGAIN):
                scratch = TemporaryFolder("p2u-onnx").__enter__()
            self._scratch = weakref.finalize(self, scratch.remove)
            self._directory = scratch.path / "model"
        else:
            self._directory = Path(settings.directory)
        self._changed = threading.Condition()
        self._live: _Live | None = None
        self._arrived: list[str] = []
        self._answering: list[str] = []
        self._progress: Progress | None = None
        self._package: PackageReader | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._waiting: tuple[str, Path] | None = None
        self._callbacks: list[Callable[[str], None]] = []
        self._pins = threading.local()
        #: With weights as inputs: the version, its session, names of the weights.
        self._model: tuple[str, InferenceSession, tuple[str, ...]] | None = None
        self._transferring = False
        self._thread: threading.Thread | None = None
        self._forked: UsageError | None = None
        self.register_forks()
        self.resume()

    @property
    def state(self) -> str | None:
        """Label of the state that answers now."""
        with self._changed:
            return self._live.state if self._live else None

    @property
    def progress(self) -> Progress | None:
        """The progress of the transfer; None before it began."""
        return self._progress

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[Any]:
        """As ``InferenceSession.run``; any number of threads at once.

        Each call answers from exactly one state.
        """
        return self._current().run(output_names, input_feed, run_options)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[str]:
        """Let all runs of this thread in the block answer from one state; yields its label."""
        live = self._current()
        before = getattr(self._pins, "live", None)
        self._pins.live = live
        try:
            yield live.state
        finally:
            self._pins.live = before

    def wait(self, state: str | None = None, timeout: float | None = None) -> None:
        """Return when a state, or a better one, answers.

        Args:
            state: Its label, which may be that of a version on the way; by default the last one
                wanted.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It took longer.
            P2UError: What ended the transfer before; `resume` goes on.
        """
        wanted = state or self._settings.task.until
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._answers(wanted):
                if self._error is not None:
                    raise self._error
                if self._cancelled:
                    raise Cancelled("the transfer was cancelled")
                if self._thread is None:
                    raise UsageError(
                        f"the model does not pass through a state {wanted!r}",
                        hint=f"Its states so far: {', '.join(self._answering) or 'none'}",
                    )
                if not wait_briefly(self._changed, end):
                    failure = self._package.fetcher.failure if self._package else None
                    raise too_late(wanted, timeout, failure)

    def on_state(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(label)`` when a state begins to answer; at once for the present one."""
        with self._changed:
            self._callbacks.append(callback)
            now = self._live.state if self._live else None
        if now is not None:
            callback(now)

    def resume(self) -> None:
        """Go on after an error or `cancel`, with what is missing; does nothing meanwhile."""
        with self._changed:
            if self._forked is not None:
                raise self._forked
            ending = self._thread if self._error is not None or self._cancelled else None
        if ending is not None and ending is not threading.current_thread():
            ending.join()  # its error is known a moment before it ends
        with self._changed:
            if self._thread is None:
                self._error = None
                self._cancelled = False
                self._thread = threading.Thread(target=self._work, daemon=True, name="p2u-onnx")
                self._thread.start()

    def cancel(self) -> None:
        """Stop the transfer; the present session stays in use."""
        with self._changed:
            self._cancelled = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork(self, *, child: bool) -> None:
        """See `OneProcess.after_fork`: a child has the state of this moment, and no other."""
        if not child:
            return
        self._changed = threading.Condition()
        if self._live is not None:
            _never_freed.append(self._live.inference)
        here = self._live.state if self._live else "nothing"
        self._forked = UsageError(
            f"this process was forked from the one that opened the package: its session stays at "
            f"{here}",
            file=str(self._source),
            hint="Call p2u.onnx.session after the fork, in each process",
        )
        if self._thread is not None and self._error is None:
            self._error = self._forked
        self._thread, self._transferring = None, False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        found = f"<p2u.onnx.Session of {self._source} at {self.state or 'nothing yet'}"
        return f"{found}: {self._error}>" if self._error is not None else f"{found}>"

    def close(self) -> None:
        """End the transfer, and remove the files if they are in a temporary directory."""
        self.cancel()
        if self._scratch is not None:
            self._scratch()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._current().inference, name)

    def _answers(self, wanted: str) -> bool:
        """Whether a state answers, or one that comes after it."""
        have = self._answering
        if wanted in have or (wanted == BEST and have):
            return True
        # The newest version may have no base of its own: then an older one's is on the route.
        return wanted != self._settings.task.until and any(s.endswith(f"@{wanted}") for s in have)

    def _current(self) -> _Live:
        live: _Live | None = getattr(self._pins, "live", None) or self._live
        if live is None:
            raise UsageError("no state is complete yet", hint='Call wait("base") first')
        return live

    # --- in the background: one thread builds, one pulls

    def _work(self) -> None:
        self._transferring = True
        transfer = threading.Thread(target=self._transfer, daemon=True, name="p2u-onnx-transfer")
        transfer.start()
        try:
            self._build()
        except BaseException as error:  # noqa: BLE001 - raised again by wait()
            self._fail(error)
        transfer.join()
        with self._changed:
            self._thread = None
            self._changed.notify_all()

    def _transfer(self) -> None:
        try:
            task = self._settings.task
            if task.deadline is not None and not self._arrived:
                best = self._pull(task).state
                assert best is not None
                self._reached(best)
            self._pull(replace(task, deadline=None, on_state=self._reached))
        except BaseException as error:  # noqa: BLE001 - raised again by wait()
            self._fail(error)
        with self._changed:
            self._transferring = False
            self._changed.notify_all()

    def _pull(self, task: PullTask) -> PullResult:
        task = replace(task, progress=self._tick)
        return run_pull(
            self._source, self._directory, task, self._settings.transfer, on_open=self._opened
        )

    def _opened(self, package: PackageReader) -> None:
        self._package = package

    def _tick(self, progress: Progress) -> None:
        self._progress = progress
        if self._cancelled or self._error is not None:
            raise Cancelled("the transfer was cancelled")

    def _reached(self, label: str) -> None:
        """A state is on disk: keep it under names of its own, for the next one takes its place."""
        if label in self._arrived:
            return
        folder = self._directory.parent
        copy = Path(tempfile.mkdtemp(prefix=f".{self._directory.name}-{label}-", dir=folder))
        for path in self._directory.rglob("*"):
            if path.is_file():
                link = copy / path.relative_to(self._directory)
                link.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, link)
        with self._changed:
            before, self._waiting = self._waiting, (label, copy)
            self._arrived.append(label)
            self._changed.notify_all()
        if before is not None:  # overtaken before it was built
            shutil.rmtree(before[1], ignore_errors=True)

    def _build(self) -> None:
        while (ready := self._next()) is not None:
            label, folder = ready
            try:
                live = self._make(label, self._model_file(folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            with self._changed:
                self._live = live
                self._answering = self._arrived[: self._arrived.index(label) + 1]
                callbacks = tuple(self._callbacks)
                self._changed.notify_all()
            for callback in callbacks:
                try:
                    callback(label)
                except Exception:  # noqa: BLE001 - whatever it raises
                    _log.exception("a callback of Session.on_state failed")

    def _next(self) -> tuple[str, Path] | None:
        """The newest state that no session was built of; None if there will be none."""
        with self._changed:
            while self._waiting is None:
                if not self._transferring:
                    return None
                self._changed.wait()
            ready, self._waiting = self._waiting, None
            return ready

    def _model_file(self, folder: Path) -> Path:
        if self._settings.file is not None:
            path = folder / self._settings.file
            if not path.is_file():
                raise UsageError("the package has no such file", file=self._settings.file)
            return path
        found = sorted(folder.rglob("*.onnx"))
        if len(found) != 1:
            names = ", ".join(p.relative_to(folder).as_posix() for p in found) or "none"
            raise UsageError(
                f"{len(found)} .onnx files in the package: {names}",
                hint="Say which with file=" if found else "Pack a model that has one",
            )
        return found[0]

    def _make(self, label: str, path: Path) -> _Live:
        from onnxruntime import InferenceSession

        options = dict(self._settings.options)
        if self._settings.sess_options is not None:
            options["sess_options"] = self._settings.sess_options()
        if self._settings.weights == "session":
            return _Live(label, InferenceSession(str(path), **options), {})
        # Another version may have another graph, and other values of what is no input.
        version = label.rpartition("@")[0]
        if self._model is None or self._model[0] != version:
            model, names = split(path)
            self._model = version, InferenceSession(model, **options), names
        _, inference, names = self._model
        return _Live(label, inference, feeds(path, names))

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            # Errors after the first one, or after a cancellation, follow from it.
            if self._error is None and not self._cancelled:
                self._error = error
            self._changed.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class _SessionSettings:
    """See `session`."""

    task: PullTask
    transfer: TransferOptions
    directory: str | os.PathLike[str] | None
    file: str | None
    weights: Literal["session", "inputs"]
    sess_options: Callable[[], SessionOptions] | None
    options: Mapping[str, Any]


def session(
    source: str | os.PathLike[str],
    *,
    state: str = "base",
    until: str = "exact",
    deadline: float | None = None,
    directory: str | os.PathLike[str] | None = None,
    file: str | None = None,
    weights: Literal["session", "inputs"] = "session",
    jobs: int | None = None,
    limit_rate: float | str | None = None,
    retry: Retry | None = None,
    cache: bool | str | os.PathLike[str] = True,
    sess_options: SessionOptions | Callable[[], SessionOptions] | None = None,
    **ort_options: Any,
) -> Session:
    """A packed ``.onnx`` model, answering as soon as ``state`` is here, and sharpening itself.

    Args:
        source: Path or URL of the package.
        state: Label of the state to wait for before this returns; ``"best"`` with a deadline.
        until: Label of the last state wanted.
        deadline: Seconds, with ``state="best"``: begin with the best state that the bandwidth
            measured can deliver by then.
        directory: Keep the model there, for the next start (see ``p2u.pull``). By default a
            temporary directory, which is removed with the session's ``with`` block or process.
        file: Which ``.onnx`` file, if the package has several.
        weights: ``"session"``: a new session per state, at full speed; two of them are in memory
            while they are exchanged. ``"inputs"``: one session whose float weights are inputs,
            read from the mapped file; no rebuilding, but ONNX Runtime cannot fold or repack them,
            so that a run takes about twice as long. Needs the package ``onnx``.
        jobs: Threads; see `p2u.TransferOptions`.
        limit_rate: Most bytes per second; see `p2u.TransferOptions`.
        retry: When to try again; see `p2u.TransferOptions`.
        cache: Keep what comes for the next start; see `p2u.TransferOptions`. Not needed with a
            ``directory``.
        sess_options: For every session; or a function that makes them, where one object cannot
            serve several.
        **ort_options: Of ``onnxruntime.InferenceSession``: ``providers``, ``provider_options``...

    Raises:
        UsageError: An argument is wrong, or the package has not just one ``.onnx`` file.
        P2UError: See ``p2u.pull``. What fails after this has returned, `Session.wait` raises.
    """
    if weights not in ("session", "inputs"):
        raise UsageError(f"weights={weights!r}", hint="Choose 'session' or 'inputs'")
    if (state == BEST) != (deadline is not None):
        raise UsageError("state='best' and a deadline need each other")
    make = sess_options
    if sess_options is not None and not callable(sess_options):
        make = lambda: sess_options  # noqa: E731
    settings = _SessionSettings(
        task=PullTask(until=until, deadline=deadline, each_state=state != until),
        transfer=TransferOptions(
            jobs=jobs, limit_rate=limit_rate, retry=retry, cache=directory is None and cache
        ),
        directory=directory, file=file, weights=weights, sess_options=make, options=ort_options,
    )  # fmt: skip
    made = Session(source, settings)
    try:
        made.wait(state)
    except BaseException:
        made.__exit__()
        raise
    return made
