"""``p2u.sync.Publisher``: publish a trainer's weights as versions, in the background."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.sync.place import PublisherPlace
from p2u.adapters.sync.sidecar_files import of_model, read_folder
from p2u.adapters.sync.snapshot import Snapshot, tensors_of
from p2u.adapters.sync.steps import step_of, version_name
from p2u.adapters.torch.dtypes import floating_dtype
from p2u.client.folder.pull import pull
from p2u.client.live.low_priority import lower_priority
from p2u.disk.errors import disk_errors
from p2u.disk.files import remove_tree
from p2u.disk.locks import FileLock
from p2u.disk.scratch import make_empty
from p2u.errors import BusyError, Cancelled, ConflictError, UsageError
from p2u.one_process import OneProcess
from p2u.package.graph import find_path
from p2u.package.lookup import find_state
from p2u.package.manifest import Manifest
from p2u.packing.api import gc, publish

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("p2u")


@dataclass(frozen=True, slots=True)
class Published:
    """One version that was published.

    Attributes:
        version: Its name, ``"step120"``.
        step: The trainer's step.
        bytes: What a subscriber that has the version before fetches: the update and its index. For
            the first version: all that there is to fetch.
        manifest: Bytes of ``p2u.json``, which is fetched for each version, too. Text that
            compresses well, where a server does that; it grows with the versions that are kept.
        seconds: From the beginning of its encoding until it was there for subscribers.
        snapshot: Seconds for which `Publisher.publish` kept the trainer waiting.
    """

    version: str
    step: int
    bytes: int
    manifest: int
    seconds: float
    snapshot: float


@dataclass(eq=False, slots=True)
class _PendingVersion:
    """A snapshot that waits for its turn."""

    snapshot: Snapshot
    step: int
    carried: dict[str, bytes]
    seconds: float = 0.0


class Publisher(OneProcess):
    """Publishes a model again and again while it is trained; `publish` only takes a snapshot.

    One thread in the background, of lower priority, makes the versions one after the other. One
    that has begun is completed. Where the next snapshot comes before the last one had its turn, the
    newer replaces it (``when_busy="replace"``: subscribers get fewer versions, the trainer never
    waits for the encoder), or `publish` waits for the encoder (``"wait"``: every one is published).

    Memory: two snapshots (``"wait"``: one). Disk: the last version and the one being made, in the
    folder ``.<name>.sync`` next to the package, which also keeps a second publisher away. For a
    package at a URL it is in the user's folder for caches; a second publisher on another machine
    gets a ConflictError.

    A publisher that is made again, after whatever end, continues the package from its newest exact
    state. The next call of any method raises an error of the background.

    Args:
        package: The package's folder, or its URL in a store that can be written (docs/stores.md);
            made with the first version.
        anchor_every: After so many versions one gets a base from nothing as well, so that a late
            subscriber has no longer chain of updates to fetch.
        keep: Newest versions that stay; with them stays what leads there from nothing, which are
            up to ``anchor_every`` versions more. None: all, until the package is full.
        grace: Seconds for which files that are no longer needed stay for slow subscribers.
        files: A model directory; its files without weights (configuration, tokenizer) travel along.
            By default the configuration of a model of transformers.
        dtype: What floating-point tensors are published as (``torch.bfloat16``, or its name).
        when_busy: ``"replace"`` or ``"wait"``.
        work: The folder to work in, if it is to be another one.
        on_published: Called with each `Published`, in the background thread. The next call
            raises what it raises.
        options: Further ones of ``p2u.publish``: ``levels``, ``bits``, ``jobs``, ``name``.

    Raises:
        UsageError: An argument is wrong.
        BusyError: Another publisher has this package.
        FormatError, UnsupportedError: The package that is there cannot be read.
        DiskError: The folder cannot be made.
        StoreError: The store cannot be reached.
    """

    def __init__(
        self,
        package: str | os.PathLike[str],
        *,
        anchor_every: int = 50,
        keep: int | None = 20,
        grace: float = 600.0,
        files: str | os.PathLike[str] | None = None,
        dtype: torch.dtype | str | None = None,
        when_busy: str = "replace",
        work: str | os.PathLike[str] | None = None,
        on_published: Callable[[Published], None] | None = None,
        **options: Any,
    ) -> None:
        if anchor_every < 1:
            raise UsageError(f"anchor_every is {anchor_every}", hint="Use 1 or more")
        if keep is not None and keep < 1:
            raise UsageError(f"keep is {keep}", hint="Use 1 or more")
        if when_busy not in ("replace", "wait"):
            raise UsageError(f"when_busy must be 'replace' or 'wait', not {when_busy!r}")
        self._place = PublisherPlace(package, work)
        self._package = self._place.package
        self._options = {"anchor_every": anchor_every, "name": self._place.name, **options}
        self._keep, self._grace = keep, grace
        self._files = None if files is None else read_folder(files)
        self._dtype = floating_dtype(dtype)
        self._wait = when_busy == "wait"
        self._report = on_published
        self._work = self._place.work
        self._lock = FileLock(
            self._work / "lock",
            "another publisher uses this package",
            "Give each trainer a package of its own",
            file=Path(self._package) if self._work.parent == Path(self._package).parent else None,
            make_folder=True,
        )
        self._lock.acquire()
        self._changed = threading.Condition()
        self._free = [Snapshot() for _ in range(1 if self._wait else 2)]
        self._waiting: _PendingVersion | None = None
        self._busy = False
        self._ended = False
        self._cancelled = False
        self._error: BaseException | None = None
        self._published: list[Published] = []
        self._skipped = 0
        #: Id of the newest exact state, of which ``last`` is a copy; None: to be found out.
        self._newest: str | None = None
        try:
            self._last_step = self._find_step()
        except BaseException:
            self._lock.release()
            raise
        self._forked = False
        self.register_forks()
        self._thread = threading.Thread(target=self._run, daemon=True, name="p2u-publisher")
        self._thread.start()

    @property
    def published(self) -> tuple[Published, ...]:
        """The versions that this publisher has published."""
        with self._changed:
            return tuple(self._published)

    @property
    def skipped(self) -> int:
        """Snapshots that a newer one replaced."""
        with self._changed:
            return self._skipped

    def publish(
        self, source: torch.nn.Module | Mapping[str, torch.Tensor], step: int | None = None
    ) -> bool:
        """Take a snapshot, to be published as the version ``step<step>``; returns when it is taken.

        The tensors are the caller's again then. Call it between two steps of the optimizer.

        Args:
            source: A module, or names and tensors (a state dict, an adapter, an optimizer's state),
                on any device.
            step: The trainer's; by default one more than the last.

        Returns:
            Whether no earlier snapshot was replaced.

        Raises:
            UsageError: There is nothing to publish, or the publisher is closed.
            P2UError: What went wrong in the background since the last call; this snapshot was not
                taken then. Call again to try again.
        """
        if step is not None and step < 0:
            raise UsageError(f"the step is {step}", hint="Use 0 or more")
        tensors = tensors_of(source)
        carried = self._files if self._files is not None else of_model(source, self._dtype)
        with self._changed:
            self._check()
            begin = time.monotonic()
            while self._wait and (self._busy or self._waiting is not None):
                self._changed.wait(0.2)
                self._check()
            job, self._waiting = self._waiting, None
            replaced = job is not None
            if job is None:
                job = _PendingVersion(self._free.pop(), 0, carried)
        # The worker cannot get at this snapshot now.
        try:
            job.snapshot.take(tensors, self._dtype)
        except BaseException:
            with self._changed:
                self._free.append(job.snapshot)
            raise
        with self._changed:
            job.step = self._last_step + 1 if step is None else step
            job.carried = carried
            job.seconds = time.monotonic() - begin
            self._last_step = job.step
            self._skipped += replaced
            self._waiting = job
            self._changed.notify_all()
        return not replaced

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all snapshots are published.

        Raises:
            TimeoutError: It took longer.
            P2UError: What went wrong.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._error is None and (self._busy or self._waiting is not None):
                left = 0.2 if end is None else min(0.2, end - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"some snapshots are not published after {timeout} s")
                self._changed.wait(left)
            self._check()

    def close(self, *, flush: bool = True) -> None:
        """Publish what waits, and end; without ``flush``, drop it and end as soon as possible.

        Raises:
            P2UError: What went wrong. It is closed all the same.
        """
        with self._changed:
            if not self._thread.is_alive() and self._ended:
                return
            if not flush:
                self._waiting, self._cancelled = None, True
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._lock.release()
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def __repr__(self) -> str:
        with self._changed:
            last = self._published[-1].version if self._published else "nothing yet"
            ended = ", closed" if self._ended else ""
        return f"<p2u.sync.Publisher to {self._package}, published: {last}{ended}>"

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(flush=False)
        except Exception:  # noqa: BLE001 - the block's own error is on its way
            _log.exception("the publisher failed, too")

    def after_fork(self, *, child: bool) -> None:
        """See `OneProcess.after_fork`: only the parent publishes."""
        if child:
            self._changed = threading.Condition()
            self._forked = self._ended = True
            self._waiting, self._error, self._busy = None, None, False

    def _check(self) -> None:
        if self._forked:
            raise UsageError(
                "this process was forked from the one that publishes to this package",
                file=self._package,
                hint="Publish in the process that made the publisher",
            )
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self._ended:
            raise UsageError("this publisher is closed")

    def _find_step(self) -> int:
        """The last step that was published; -1 if there is none."""
        manifest = self._place.manifest()
        releases = manifest.releases if manifest is not None else ()
        return max((step_of(release.version) or 0 for release in releases), default=-1)

    def _run(self) -> None:
        """The background: one job after the other."""
        lower_priority()
        while True:
            with self._changed:
                while self._waiting is None and not self._ended:
                    self._changed.wait()
                job, self._waiting = self._waiting, None
                if job is None:
                    return
                self._busy = True
            found: Published | None = None
            error: BaseException | None = None
            try:
                found = self._publish(job)
                if self._report is not None:
                    self._report(found)
            except BaseException as raised:  # noqa: BLE001 - raised again by the next call
                error = raised
            with self._changed:
                if job.snapshot not in self._free:
                    self._free.append(job.snapshot)
                if error is not None and not (self._cancelled and isinstance(error, Cancelled)):
                    self._error = error
                if found is not None:
                    self._published.append(found)
                self._busy = False
                self._changed.notify_all()

    def _publish(self, job: _PendingVersion) -> Published:
        """Make a version of a snapshot."""
        begin = time.monotonic()
        last, model = self._work / "last", self._work / "next"
        self._write(job, model)
        before = self._place.manifest()
        if self._newest is None:
            self._newest = self._recover(before, last)
        name = version_name(job.step, before)
        try:
            publish(
                model,
                self._package,
                version=name,
                parent=last if self._newest is not None else None,
                expect=self._newest,
                force=True,  # each step is published, whatever the trainer did
                progress=self._tick,
                **self._options,
            )
        except ConflictError:
            raise  # and again at the next call: somebody else publishes here
        except BaseException:
            self._newest = None
            raise
        # Killed before the next lines, a later publisher finds out from the package.
        self._newest = None
        with disk_errors(last):
            remove_tree(last)
            model.rename(last)
        self._newest = f"{name}@exact"
        after = self._place.manifest()
        assert after is not None
        seconds = time.monotonic() - begin
        if self._keep is not None:
            with contextlib.suppress(BusyError):  # somebody collects already; later ones will, too
                gc(self._package, keep=self._keep, anchors=0, grace=self._grace)
        size = len(after.to_bytes())
        return Published(name, job.step, _cost(after, name), size, seconds, job.seconds)

    def _write(self, job: _PendingVersion, model: Path) -> None:
        """Write a model directory, and give the snapshot's memory back."""
        with disk_errors(model):
            make_empty(model)
            for path, content in job.carried.items():
                (model / path).parent.mkdir(parents=True, exist_ok=True)
                (model / path).write_bytes(content)
        job.snapshot.write(model / "model.safetensors")
        with self._changed:
            self._free.append(job.snapshot)

    def _recover(self, manifest: Manifest | None, last: Path) -> str | None:
        """Let ``last`` be the newest exact state of the package; returns its id, None of none."""
        if manifest is None:
            return None
        wanted = find_state(manifest, "exact").id
        try:
            pull(self._package, last, until=wanted, progress=self._tick)
        except UsageError:  # half a folder, or a state that is no longer known
            with disk_errors(last):
                remove_tree(last)
            pull(self._package, last, until=wanted, progress=self._tick)
        return wanted

    def _tick(self, _: object) -> None:
        if self._cancelled:
            raise Cancelled("the publisher was closed")


def _cost(manifest: Manifest, version: str) -> int:
    """Bytes from the version before to a new one, or from nothing."""
    names = [release.version for release in manifest.releases]
    before = names[names.index(version) - 1] if version in names[1:] else None
    source = None if before is None else f"{before}@exact"
    route = find_path(manifest.updates, source, f"{version}@exact", cost=manifest.cost)
    return sum(manifest.cost(update) for update in route)
