"""``p2u.open``: open a package as a live model; ``p2u.load``: load one state of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from p2u.client.transfer.early_manifest import ask_early
from p2u.client.transfer.options import TransferOptions

if TYPE_CHECKING:
    import numpy as np

    from p2u.client.live.replica import Replica
    from p2u.stores import Store
    from p2u.stores.backoff import Retry


def open_replica(
    source: str | os.PathLike[str] | Store,
    *,
    mode: str = "atomic",
    staging: str = "chunks",
    patience: float = 5.0,
    jobs: int | None = None,
    until: str = "exact",
    deadline: float | None = None,
    limit_rate: float | str | None = None,
    check: str = "exact",
    retry: Retry | None = None,
    max_bytes: int | None = None,
    straight: bool | None = None,
    follow: float | None = None,
    cache: bool | str | os.PathLike[str] = True,
) -> Replica:
    """Open a package as a live model in memory; returns at once.

    Args:
        source: Path or URL of the package, or an open store (which is closed at the end).
        mode: ``"atomic"``: a state is replaced by the next at one moment when nobody has pinned it.
            ``"eager"``: chunks take effect as they arrive; lowest memory, mixed states.
        staging: Of atomic mode. ``"copy"``: the next state is built in memory of its own, and
            copied over; shortest pause. ``"chunks"``: its chunks are kept (beyond some MiB in a
            temporary file), and decoded in the pause; least memory. ``"direct"``: as eager, but
            `Replica.on_commit` is called in a pause; for models that own copies of all tensors.
            ``"auto"``: copy where half of the free memory is enough for it, else chunks.
        patience: Seconds after which a commit that waits holds new pins back even though others
            keep theirs.
        until: The last state wanted: a label in the latest version (if that lacks it, its next
            better state), a version (its last state), or an id (``"v1@base"``).
        deadline: Seconds from now: ``wait("best")`` returns with the best state possible by then.
        check: Which files are compared with the publisher's SHA-256: ``"exact"``, those that are
            exact; ``"all"``, those of every state; ``"none"``. Each chunk's digest is checked in
            any case.
        jobs: Threads; see `p2u.TransferOptions`.
        limit_rate: Most bytes per second; see `p2u.TransferOptions`.
        retry: When to try again; see `p2u.TransferOptions`.
        max_bytes: Most bytes of the model's files; see `p2u.TransferOptions`.
        straight: True: leave out the states before the last one; False: each of them is usable.
            None: leave them out where the last one of a remote package arrives within about a
            second. Whoever waits for one of them gets the last one.
        follow: Look for a newer version as often, in seconds, and go on to it; see
            `Replica.refresh`. What keeps it away is in `Replica.error`, and tried again. Needs
            atomic mode.
        cache: Of a package on another machine: keep what comes, and begin with the best state that
            is there; see `p2u.TransferOptions`.

    Raises:
        UsageError: An argument is wrong. `Replica.wait` raises later errors.
        NotFoundError: A local package that does not exist.
    """
    options = TransferOptions(
        jobs=jobs, limit_rate=limit_rate, retry=retry, straight=straight, max_bytes=max_bytes,
        cache=cache,
    )  # fmt: skip
    early = ask_early(source)
    # Later than the first request: together these take as long as its answer.
    from p2u.client.live.plan import LivePlan
    from p2u.client.live.replica import Replica

    plan = LivePlan(
        until=until, mode=mode, staging=staging, patience=patience, check=check,
        deadline=deadline, follow=follow, transfer=options,
    )  # fmt: skip
    return Replica(source, plan, early)


def load(
    source: str | os.PathLike[str] | Store,
    state: str = "exact",
    *,
    jobs: int | None = None,
    limit_rate: float | str | None = None,
    retry: Retry | None = None,
    max_bytes: int | None = None,
    cache: bool | str | os.PathLike[str] = True,
) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of one state of a package, by name, writable; no other state is made.

    Args:
        source: Path or URL of the package, or an open store.
        state: As ``until`` of `p2u.open`; by default the publisher's bits of the latest version.
        jobs: See `p2u.TransferOptions`.
        limit_rate: See `p2u.TransferOptions`.
        retry: See `p2u.TransferOptions`.
        max_bytes: See `p2u.TransferOptions`.
        cache: See `p2u.TransferOptions`.

    Raises:
        P2UError: See ``p2u.pull``.
    """
    from p2u.client.live.plan import LivePlan
    from p2u.client.live.replica import Replica
    from p2u.client.live.showing import TensorDict

    options = TransferOptions(
        jobs=jobs, limit_rate=limit_rate, retry=retry, max_bytes=max_bytes, cache=cache
    )
    plan = LivePlan(
        until=state, mode="eager", low_priority=False, each_state=False, transfer=options
    )
    replica = Replica(source, plan)
    try:
        replica.wait()
        return TensorDict(replica.memory.arrays(writable=True))
    finally:
        replica.cancel()
