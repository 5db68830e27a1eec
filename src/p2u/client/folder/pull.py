"""``p2u.pull``: bring a package to a folder, state by state."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from p2u.client.folder.folder_transfer import FolderTransfer, PlannedUpdate, PullPlan
from p2u.client.transfer.backoff import Retry
from p2u.client.transfer.control import Progress
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import UsageError
from p2u.stores import Store
from p2u.stores.forwarding import KeepOpen

__all__ = ["PlannedUpdate", "Progress", "PullPlan", "PullResult", "pull"]


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did.

    Attributes:
        state: Label of the state that the target holds; None if none (after a dry run).
        fetched: Bytes that came from the store.
        requests: Requests made.
        seconds: Time taken.
        plan: What would be done; of a dry run only.
        warnings: Updates that were found missing or broken, and gone around.
    """

    state: str | None
    fetched: int
    requests: int
    seconds: float
    plan: PullPlan | None = None
    warnings: tuple[str, ...] = ()


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
    progress: Callable[[Progress], None] | None = None,
    on_state: Callable[[str], None] | None = None,
    retry: Retry | None = None,
) -> PullResult:
    """Pull a package to a folder; go on where an earlier run, even a killed one, ended.

    The folder is always exactly one state: the next one is built beside it, checked against its
    SHA-256, and takes its place in one step. Files in it that are not the package's stay. One
    hidden file, ``.p2u-state.json``, says what the folder holds.

    The way is the cheapest in bytes from what is there, which is known by its digests: an older
    version, a state of another package, somebody else's file that the package knows. An update
    between versions is used if all that leads to the state wanted was seen to be there first. Where
    one turns out missing or broken, the next best way is taken, if there is one.

    Args:
        source: Path or URL of the package, or an open store (which is closed then). It may be
            another one than last time, if it has the same package.
        target: The folder; made if missing.
        until: The state wanted: a label in the latest version, a version (its last state), or an
            id (``"v1@base"``). A better state of that version that is there already stays.
        origin: A folder or file somewhere else that holds a state that the package knows, and
            which may be a cheaper place to begin at. It is only read.
        jobs: Threads; by default the processors, and a few more for a remote source.
        limit_rate: Bytes per second, or text such as ``"2MB/s"``.
        in_place: Refine files where they lie instead of beside: needs little free space. (Not where
            a version has other tensors or files than the one before.) Readers
            then see valid files whose rows are of either state, and a row being written may be a
            mixture; a zip's checksums come last. A killed run loses nothing.
        dry_run: Change nothing; the result has the plan.
        repair: Overwrite files that were changed after they were pulled.
        deadline: Seconds: stop at the best state that the bandwidth measured can deliver by then,
            but not before the first one. What was fetched of a better one is kept for the next
            run.
        progress: Called about ten times a second with a `Progress`, in this thread.
        on_state: Called with the label of each state as soon as the folder is it, in this thread.
        retry: When to try again after failures of the store.

    Raises:
        UsageError: An argument is wrong, or the folder holds something else; nothing is changed.
        StoreError: The package could not be read. What was fetched is kept for the next run.
        IntegrityError, FormatError, UnsupportedError: The package is damaged or not one.
        DiskError: No space, no permission.
        BusyError: Another process pulls to the same folder.
    """
    if deadline is not None and not deadline > 0:
        raise UsageError(f"a deadline of {deadline:g} s", hint="It is in seconds, above 0")
    lent = KeepOpen(source) if isinstance(source, Store) else source

    def connect(known: PackageReader | None = None) -> PackageReader:
        return PackageReader(lent, jobs=jobs, limit_rate=limit_rate, retry=retry, known=known)

    package = connect()
    engine = None
    try:
        engine = FolderTransfer(
            package,
            target,
            until=until,
            in_place=in_place,
            repair=repair,
            origin=origin,
            reopen=connect,
            deadline=deadline,
            progress=progress,
            on_state=on_state,
        )
        plan = None
        state: str | None
        if dry_run:
            plan = engine.plan()
            state = plan.here
        else:
            state = engine.run()
        meter = package.meter
        warnings = tuple(engine.ways.warnings)
        return PullResult(state, meter.received, meter.requests, meter.seconds, plan, warnings)
    finally:
        (engine.package if engine is not None else package).close()
        if isinstance(lent, KeepOpen):
            lent.end()
