"""A line's properties, and what arithmetic alone says of a transfer over it."""

from __future__ import annotations

from dataclasses import dataclass

from p2u.errors import UsageError
from p2u_lab.network.link import Link
from p2u_lab.network.traces import Trace, lte_trace

#: Of the bytes that the shaper counts, TCP's payload: 1500 less IP's 20, TCP's 20 and 12 of
#: time stamps.
EFFICIENCY = 1448 / 1500
#: Bytes that a server may send before it hears anything (RFC 6928).
_FIRST_WINDOW = 10 * 1448
#: Seconds of a made-up mobile line before it repeats itself.
TRACE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A shaped link.

    Attributes:
        mbit: Rate in 1e6 bits per second; with a trace, its mean.
        rtt_ms: Round trip, in addition to what queues add.
        jitter_ms: Each packet waits up to this much longer.
        loss: Share of packets that are dropped, 0 to 1.
        lte_seed: If given, the rate changes as `traces.lte_trace` says, with this seed.
        queue_ms: Of the queue before the line; None: `Link`'s default.
        congestion: Congestion control of both sides; None: the kernel's default.
        seed: Of jitter and loss.
    """

    mbit: float
    rtt_ms: float = 20.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    lte_seed: int | None = None
    queue_ms: float | None = None
    congestion: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.mbit > 0 and self.rtt_ms >= 0 and self.jitter_ms >= 0 and 0 <= self.loss < 1):
            raise UsageError(
                f"not a line: {self.mbit} Mbit/s, {self.rtt_ms} ms, jitter {self.jitter_ms} ms, "
                f"loss {self.loss}",
                hint="The rate must be above 0, the loss a share below 1",
            )

    @property
    def name(self) -> str:
        """Short, for tables and file names: ``"20mbit-50ms-1%loss"``."""
        kind = "mbit" if self.lte_seed is None else f"mbit-lte{self.lte_seed}"
        parts = [f"{self.mbit:g}{kind}", f"{self.rtt_ms:g}ms"]
        parts += [f"{self.jitter_ms:g}msjitter"] if self.jitter_ms else []
        parts += [f"{100 * self.loss:g}%loss"] if self.loss else []
        parts += [self.congestion] if self.congestion else []
        return "-".join(parts)

    @property
    def trace(self) -> Trace | None:
        """The rates, if they change."""
        if self.lte_seed is None:
            return None
        return lte_trace(self.mbit, TRACE_SECONDS, self.lte_seed)

    def link(self) -> Link:
        """The line itself, to be entered."""
        trace = self.trace
        return Link(
            self.mbit if trace is None else None,
            self.rtt_ms,
            jitter_ms=self.jitter_ms,
            loss=self.loss,
            seed=self.seed,
            trace=trace,
            queue_ms=self.queue_ms,
            congestion=self.congestion,
        )


def analytic_seconds(size: int, spec: LinkSpec, *, start: float = 0.0, requests: int = 2) -> float:
    """Seconds from the first packet to the last byte, by arithmetic: a model, not a measurement.

    One round trip to connect, one for each request that waits for the one before; then the rate
    less headers, and the pauses of slow start (ten segments at first, doubling each round trip,
    until the line is full). Loss, jitter, queues and the client's own time are left out.

    Args:
        size: Payload in bytes.
        spec: The line.
        start: With a trace: seconds after its beginning.
        requests: One after the other.
    """
    rtt = spec.rtt_ms / 1000
    rate = spec.mbit * 1e6 / 8 * EFFICIENCY
    waits, window, sent = (1 + requests) * rtt, _FIRST_WINDOW, 0
    while sent + window < size and window < rate * rtt:
        waits += rtt - window / rate
        sent += window
        window *= 2
    trace = spec.trace
    if trace is None:
        return waits + size / rate
    return waits + _carry(trace, start + waits, size)


def _carry(trace: Trace, begin: float, size: float) -> float:
    """Seconds that a line with changing rates takes for some bytes, if it always has some."""
    length = sum(seconds for seconds, _ in trace)
    capacity = EFFICIENCY * sum(seconds * mbit for seconds, mbit in trace) * 1e6 / 8
    whole = int(size // capacity)
    left, skip, at = size - whole * capacity, begin % length, 0.0
    while True:
        for seconds, mbit in trace:
            use = seconds - min(skip, seconds)
            skip -= seconds - use
            rate = mbit * 1e6 / 8 * EFFICIENCY
            if rate * use >= left and rate > 0:
                return whole * length + at + left / rate
            left -= rate * use
            at += use
