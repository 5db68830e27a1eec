"""``p2u.pull``: bring a folder to a state of a package."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from p2u.client.folder.folder_transfer import FolderTransfer
from p2u.client.folder.pull_task import PlannedUpdate, PullPlan, PullTask
from p2u.client.transfer.checking import EXACT
from p2u.client.transfer.control import Meter, Progress, Stop
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import NotFoundError
from p2u.package.paths import MANIFEST_KEY
from p2u.stores import Store
from p2u.stores.backoff import Retry
from p2u.stores.forwarding import KeepOpen

__all__ = ["PlannedUpdate", "Progress", "PullPlan", "PullResult", "pull"]

_log = logging.getLogger("p2u.state")


@dataclass(frozen=True, slots=True)
class PullResult:
    """The result of a pull.

    Attributes:
        state: Label of the state that the target holds; None if none (after a dry run).
        fetched: Bytes that came from the store.
        requests: Requests made.
        seconds: Time taken.
        plan: What would be done; of a dry run only.
        warnings: Updates that were found missing or broken, and gone around.
        plain_files: Number of files of a repository that is no package.
        cached: Bytes that came from the cache.
        retries: Requests made again after a failure.
        hash_failures: Objects, chunks and files that came without their digest.
        reached: ``(label, seconds)``: the states that the target held, and when; a single one with
            no requests but that of the manifest was there already.
    """

    state: str | None
    fetched: int
    requests: int
    seconds: float
    plan: PullPlan | None = None
    warnings: tuple[str, ...] = ()
    plain_files: int | None = None
    cached: int = 0
    retries: int = 0
    hash_failures: int = 0
    reached: tuple[tuple[str, float], ...] = ()


def pull(
    source: str | os.PathLike[str] | Store,
    target: str | os.PathLike[str],
    *,
    until: str = "exact",
    origin: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    limit_rate: float | str | None = None,
    in_place: bool = False,
    dry_run: bool = False,
    repair: bool = False,
    deadline: float | None = None,
    check: str = EXACT,
    straight: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_state: Callable[[str], None] | None = None,
    retry: Retry | None = None,
    max_bytes: int | None = None,
    cache: bool | str | os.PathLike[str] = False,
) -> PullResult:
    """Pull a package to a folder; go on where an earlier run, even a killed one, ended.

    The folder is always exactly one state: the next one is built next to it, of verified chunks
    only, and takes its place in one step; every file is compared with the publisher's SHA-256 when
    it is exact. Files in it that are not the package's stay. One
    hidden file, ``.p2u-state.json``, says what the folder holds.

    The route is the cheapest in bytes from any state at hand, which is known by its digests: an
    older version, a state of another package, somebody else's file that the package knows. An
    update between versions is used only after every update up to the state wanted was seen to be
    there. Where one turns out missing or broken, the next best route is taken, if there is one.

    A repository of the Hub, or a folder or bucket that lists its files, may be no package: then its
    plain files are fetched, with the same resuming, and compared with the digests that it states.

    Args:
        source: Path or URL of the package, or an open store (which is closed then). It may be
            another one than last time, if it has the same package.
        target: The folder; made if missing.
        until: The state wanted: a label in the latest version (if that lacks it, its next better
            state), a version (its last state), or an id (``"v1@base"``). A better state of that
            version that is there already stays.
        origin: A folder or file somewhere else that holds a state that the package knows, and
            which may be a cheaper place to begin at. It is only read.
        jobs: Threads; see `p2u.TransferOptions`.
        limit_rate: Most bytes per second; see `p2u.TransferOptions`.
        retry: When to try again; see `p2u.TransferOptions`.
        max_bytes: Most bytes of the model's files; see `p2u.TransferOptions`.
        cache: Take from the cache what it has, and keep what comes; see `p2u.TransferOptions`.
        in_place: Refine files where they are instead of copies: needs little free space. (Not where
            a version has other tensors or files than the one before.) Readers
            then see valid files whose rows are of either state, and a row being written may be a
            mixture; a zip's checksums come last. A killed run loses nothing.
        dry_run: Change nothing; the result has the plan.
        repair: Overwrite files that were changed after they were pulled.
        deadline: Seconds: stop at the best state that the bandwidth measured can deliver by then,
            but not before the first one. Chunks of a better one are kept for the next run.
        check: ``"all"``: compare all files with their SHA-256 in every state, too.
        straight: True: make only the state wanted, all levels at once; False: every state on the
            way. None: straight where the line is fast (the state wanted arrives within about two
            seconds, or sooner than the states between could be written) or the disk has no room for
            the states between, unless ``on_state`` or ``deadline`` is given. If an update proves
            broken, the states before it are made.
        progress: Called about ten times a second with a `Progress`, in this thread.
        on_state: Called with the label of each state as soon as the folder is it, in this thread.

    Raises:
        UsageError: An argument is wrong, or the folder holds something else; nothing is changed.
        StoreError: The package could not be read. Chunks that came are kept for the next run.
        IntegrityError, FormatError, UnsupportedError: The package is damaged or not one.
        LimitError: The model has more than ``max_bytes``; nothing was written.
        DiskError: No space, no permission.
        BusyError: Another process pulls to the same folder.
    """
    task = PullTask(
        until=until, origin=origin, in_place=in_place, repair=repair, deadline=deadline,
        progress=progress, on_state=on_state, each_state=on_state is not None, check=check,
    )  # fmt: skip
    options = TransferOptions(
        jobs=jobs, limit_rate=limit_rate, retry=retry, straight=straight, max_bytes=max_bytes,
        cache=cache,
    )  # fmt: skip
    return run_pull(source, target, task, options, dry_run=dry_run)


def run_pull(
    source: str | os.PathLike[str] | Store,
    target: str | os.PathLike[str],
    task: PullTask,
    options: TransferOptions,
    *,
    dry_run: bool = False,
    new_stop: Callable[[], Stop] = Stop,
    on_open: Callable[[PackageReader], None] | None = None,
) -> PullResult:
    """Do what `pull` does, for a task and options.

    Args:
        source: See `pull`.
        target: See `pull`.
        task: The state wanted.
        options: Of the transfer.
        dry_run: See `pull`.
        new_stop: Makes each attempt's `Stop`.
        on_open: Called with the reader of each attempt, before it reads anything.
    """
    kept = KeepOpen(source) if isinstance(source, Store) else source

    def connect(known: PackageReader | None = None) -> PackageReader:
        made = PackageReader(kept, options, known=known, stop=new_stop(), total=task.meter)
        if on_open is not None:
            on_open(made)
        return made

    package = connect()
    reached: list[tuple[str, float]] = []
    task = _noting_states(task, target, package.meter, reached)
    transfer = None
    try:
        transfer = FolderTransfer(package, target, task, reopen=connect)
        plan = None
        state: str | None
        if dry_run:
            plan = transfer.plan()
            state = plan.here
        else:
            state = transfer.run()
        meter = package.meter
        warnings = tuple(transfer.routes.warnings)
        return PullResult(
            state, meter.fetched, meter.requests, meter.seconds, plan, warnings,
            cached=meter.cached, retries=meter.retries, hash_failures=meter.hash_failures,
            reached=tuple(reached),
        )  # fmt: skip
    except NotFoundError as error:
        if not _is_no_package(error, package.url, task) or isinstance(source, Store):
            raise
        from p2u.client.folder.plain_files import ADVICE, pull_plain_files

        found = pull_plain_files(
            source, target, options, task.progress, new_stop(), dry_run=dry_run, total=task.meter
        )
        if found is None:
            raise
        return PullResult(
            None, found.fetched, found.requests, found.seconds, None, (ADVICE,), found.files,
            retries=found.retries, hash_failures=found.hash_failures,
        )  # fmt: skip
    finally:
        (transfer.package if transfer is not None else package).close()
        if isinstance(kept, KeepOpen):
            kept.end()


def _noting_states(
    task: PullTask,
    target: str | os.PathLike[str],
    meter: Meter,
    reached: list[tuple[str, float]],
) -> PullTask:
    """The task, whose states are noted and logged before its caller hears of them."""
    on_state = task.on_state

    def note(label: str) -> None:
        seconds = meter.seconds
        reached.append((label, seconds))
        fields: dict[str, object] = {"event": "state", "dir": os.fspath(target), "state": label}
        fields |= {"seconds": round(seconds, 3), "fetched": meter.fetched}
        _log.info("%s is %s after %.2f s", target, label, seconds, extra={"p2u": fields})
        if on_state is not None:
            on_state(label)

    return replace(task, on_state=note)


def _is_no_package(error: NotFoundError, url: str, task: PullTask) -> bool:
    """Whether a place has no manifest, and the task needs none."""
    plain = task.until == EXACT and task.origin is None and task.deadline is None
    return plain and not task.in_place and error.file == f"{url}/{MANIFEST_KEY}"
