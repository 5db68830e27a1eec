"""The fate of requests that come at a steady rate from a process's start."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2u.errors import UsageError
from p2u_lab.network.offer import Offer
from p2u_lab.network.spec import LinkSpec
from p2u_lab.network.transfers import TransferResult, transfer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class StreamResult:
    """Requests and their answers.

    Attributes:
        method: Of `offer.METHODS`.
        measured: Whether a real client answered; else from measured times and scores.
        rate: Requests per second.
        seconds: For how long, from the process's start.
        patience: Seconds that a request waits before it is given up.
        requests, answered: How many.
        right: How many answers were right; may be a fraction, if items' scores are.
        states: How many answers came from each state.
        every: Per second: requests, answers and right ones so far, by when requests came.
        latency: Seconds to the answer: median and 99th percentile of the answered; None if none.
    """

    method: str
    measured: bool
    rate: float
    seconds: float
    patience: float
    requests: int
    answered: int
    right: float
    states: Mapping[str, int]
    every: Sequence[tuple[int, int, float]]
    latency: tuple[float, float] | None


def stream(
    method: str,
    times: Sequence[tuple[str, float]],
    values: Mapping[str, npt.NDArray[np.float64]],
    *,
    rate: float = 10.0,
    seconds: float = 60.0,
    patience: float = 1.0,
    seed: int = 0,
) -> StreamResult:
    """The answers to a stream of requests, by when states were there and how right each is.

    Nothing is run: a request is answered at once by the state that is there, or by the first one
    if that comes before its patience ends. `stream_live` shows what this leaves out.

    Args:
        method: For the result.
        times: Label and seconds since the process's start of each state, in order, as measured:
            ``[(s.label, s.usable) for s in result.states]``.
        values: Per label, how right the answer to each item is, as `base.Scores.values`.
        rate: Requests per second; the first comes at 0 s.
        seconds: Until when.
        patience: Seconds that a request waits.
        seed: Of the order of the items, the same for all methods.

    Raises:
        UsageError: A state has no values, or they are of different numbers of items.
    """
    counts = {len(values[label]) for label, _ in times if label in values}
    missing = [label for label, _ in times if label not in values]
    if missing or len(counts) != 1 or 0 in counts:
        raise UsageError(
            f"a stream needs values of the same items for each state: {method} lacks {missing}, "
            f"and has values of {sorted(counts)} items"
        )
    order = _order(counts.pop(), seed)
    log: list[list[Any]] = []
    first = times[0][1]
    for number in range(round(rate * seconds)):
        due = number / rate
        if due + patience < first:
            log.append([due, None, None, 0.0])
            continue
        when = max(due, first)
        state = [label for label, at in times if at <= when][-1]
        log.append([due, when, state, float(values[state][order[number % len(order)]])])
    return _summary(method, False, rate, seconds, patience, log)


def stream_live(
    offer: Offer,
    link: LinkSpec,
    methods: Sequence[str] | None = None,
    *,
    items: int,
    options: Mapping[str, Any],
    user: str = "torch",
    rate: float = 10.0,
    seconds: float = 60.0,
    patience: float = 1.0,
    seed: int = 0,
) -> Iterator[tuple[TransferResult, StreamResult]]:
    """Real clients that answer requests, one after the other, while they fetch and refine.

    Args:
        offer: See `transfer`.
        link: The same.
        methods: The same.
        items: How many labelled items the user has.
        options: See `users.Torch`.
        user: See `users.make_user`.
        rate: See `stream`.
        seconds: The same.
        patience: The same.
        seed: The same.

    Raises:
        The errors of `transfer`.
    """
    wanted = {
        "rate": rate, "seconds": seconds, "patience": patience, "order": _order(items, seed),
    }  # fmt: skip
    for result in transfer(offer, link, methods, user=user, options=options, stream=wanted):
        log = result.requests or []
        yield result, _summary(result.method, True, rate, seconds, patience, log)


def _order(items: int, seed: int) -> list[int]:
    order = list(range(items))
    random.Random(seed).shuffle(order)
    return order


def _summary(
    method: str,
    measured: bool,
    rate: float,
    seconds: float,
    patience: float,
    log: Sequence[Sequence[Any]],
) -> StreamResult:
    """Count what `client.answer_requests` writes down."""
    answered = [row for row in log if row[1] is not None]
    waits = sorted(row[1] - row[0] for row in answered)
    every = []
    for second in range(1, round(seconds) + 1):
        until = [row for row in log if row[0] < second]
        done = [row for row in until if row[1] is not None]
        every.append((len(until), len(done), sum(row[3] for row in done)))
    latency = None
    if waits:
        latency = waits[len(waits) // 2], waits[min(len(waits) - 1, int(0.99 * len(waits)))]
    return StreamResult(
        method=method,
        measured=measured,
        rate=rate,
        seconds=seconds,
        patience=patience,
        requests=len(log),
        answered=len(answered),
        right=sum(row[3] for row in answered),
        states=dict(Counter(row[2] for row in answered)),
        every=every,
        latency=latency,
    )
