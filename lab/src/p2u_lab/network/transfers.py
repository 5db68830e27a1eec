"""Real clients fetch a real offer over shaped links, each in a process and on a line of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from p2u.errors import IntegrityError, StoreError, UsageError
from p2u_lab.network.client import Job
from p2u_lab.network.link import check_support
from p2u_lab.network.offer import PACKAGE, Offer
from p2u_lab.network.spec import LinkSpec, analytic_seconds

#: A client may take so many times what arithmetic says, and so many seconds more.
_FACTOR, _MORE = 6, 180


@dataclass(frozen=True, slots=True)
class StateTime:
    """When a state was there. Times are seconds since the process's start.

    Attributes:
        label: ``"base"``, ``"8bit"``, ``"exact"``.
        bytes: Received for it, from nothing on.
        arrived: Its last byte was here, of P2U also decoded and checked. (A PyTorch user learns of
            its first state when that is in the module.)
        usable: The model has answered from it (of `users.Arrays`: is in memory).
        analytic: What `spec.analytic_seconds` says of ``arrived - TransferResult.asked``.
        error: Relative error of that: 0.1 is 10 % more than was measured.
        answer: What the model said.
    """

    label: str
    bytes: int
    arrived: float
    usable: float
    analytic: float
    error: float
    answer: Any = None


@dataclass(frozen=True, slots=True)
class TransferResult:
    """One client on one line; ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        method: Of `offer.METHODS`.
        user: See `users.make_user`.
        link: As asked for.
        congestion: The server's congestion control.
        asked: Seconds from the process's start to when it began to fetch.
        states: In order.
        received: Bytes of payload.
        goodput: Mbit/s of payload, from ``asked`` to when all had arrived.
        sha256: Of all exact files.
        peak_rss: Of the client, in bytes.
        relay: `link.Link.stats`.
        requests: Of a stream: see `client.answer_requests`.
    """

    method: str
    user: str
    link: LinkSpec
    congestion: str
    asked: float
    states: tuple[StateTime, ...]
    received: int
    goodput: float
    sha256: str
    peak_rss: int
    relay: Mapping[str, Any]
    requests: Sequence[Sequence[Any]] | None = None

    @property
    def first(self) -> float:
        """Seconds from the process's start to the first answer."""
        return self.states[0].usable

    @property
    def exact(self) -> float:
        """Seconds from the process's start to the first answer of the exact model."""
        return self.states[-1].usable


def transfer(
    offer: Offer,
    link: LinkSpec,
    methods: Sequence[str] | None = None,
    *,
    user: str = "arrays",
    options: Mapping[str, Any] | None = None,
    states: Sequence[str] | None = None,
    stream: Mapping[str, Any] | None = None,
) -> Iterator[TransferResult]:
    """Let clients fetch an offer, one after the other.

    Args:
        offer: Made by `prepare`.
        link: Each client gets a new one, with the same rates and losses.
        methods: By default, all that are offered.
        user: What clients do with the model.
        options: For the user.
        states: Of P2U, labels of the states to answer from, the last among them; None: all.
            (Each answer takes processor time from the transfer.)
        stream: Requests to answer meanwhile, see `client.answer_requests`.

    Raises:
        UnsupportedError: This machine cannot have shaped links.
        UsageError: A method is not offered.
        StoreError: A client failed; its last words are in the message.
        IntegrityError: Two methods have brought different files.
    """
    check_support()
    wanted = list(offer.sizes) if methods is None else list(methods)
    if missing := set(wanted) - set(offer.sizes):
        raise UsageError(f"not offered: {sorted(missing)}", hint="Give them to prepare()")
    seen: TransferResult | None = None
    for method in wanted:
        files = tuple(offer.files.get(method, ()))
        some = None if states is None else tuple(states)
        job = Job(method, "", files, PACKAGE, user, dict(options or {}), some, stream)
        found = _one(offer, link, job)
        if seen is not None and seen.sha256 != found.sha256:
            raise IntegrityError(f"{method} brought other files than {seen.method}")
        seen = found
        yield found


def _one(offer: Offer, spec: LinkSpec, job: Job) -> TransferResult:
    method = job.method
    limit = _MORE + _FACTOR * analytic_seconds(offer.sizes[method], spec)
    limit += job.stream["seconds"] if job.stream else 0
    with spec.link() as link, tempfile.TemporaryDirectory() as work:
        job = replace(job, url=link.serve(offer.root, Path(work)))
        congestion = link.congestion_control()
        if spec.lte_seed is not None:
            link.restart_trace()
        begin = time.monotonic()
        command = [sys.executable, "-m", "p2u_lab.network.client", json.dumps(asdict(job))]
        try:
            out = link.run("client", [*command, str(begin)], stderr=subprocess.PIPE, timeout=limit)
        except subprocess.CalledProcessError as error:
            raise StoreError(f"the client of {method} failed: {error.stderr[-2000:]}") from error
        except subprocess.TimeoutExpired as error:
            raise StoreError(f"the client of {method} did not end in {limit:.0f} s") from error
    found = json.loads(out.splitlines()[-1])
    states = tuple(_state(state, spec, found["asked"]) for state in found["states"])
    seconds = states[-1].arrived - found["asked"]
    return TransferResult(
        method=method,
        user=job.user,
        link=spec,
        congestion=congestion,
        asked=found["asked"],
        states=states,
        received=found["received"],
        goodput=8e-6 * found["received"] / seconds,
        sha256=found["sha256"],
        peak_rss=found["peak_rss"],
        relay=link.stats(),
        requests=found["requests"],
    )


def _state(state: Mapping[str, Any], spec: LinkSpec, asked: float) -> StateTime:
    guess = analytic_seconds(state["bytes"], spec, start=asked)
    measured = state["arrived"] - asked
    return StateTime(
        label=state["label"],
        bytes=state["bytes"],
        arrived=state["arrived"],
        usable=state["usable"],
        analytic=guess,
        error=guess / measured - 1,
        answer=state.get("answer"),
    )
