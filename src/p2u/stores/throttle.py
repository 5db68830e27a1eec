"""Limit the bytes per second of any number of threads."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Generator

from p2u.errors import Cancelled, UsageError
from p2u.stores.base import Store
from p2u.stores.forwarding import Forwarding

#: Seconds of the rate that one grant covers: small, so that threads take turns evenly.
_GRANT = 0.05

_RATE = re.compile(
    r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<prefix>[kmgt]i?)?\s*(?P<unit>bits?|bytes?|bps|b)?"
    r"(?:/s(?:ec)?)?",
    re.IGNORECASE,
)


def parse_rate(text: str) -> float:
    """Bytes per second from ``"2MB/s"``, ``"16Mbit/s"``, ``"500k"``, ``"1.5MiB/s"`` or ``"4096"``.

    k, M, G, T are powers of 1000 and Ki, Mi, Gi, Ti of 1024, in any case. ``bit`` and ``bps``
    are bits; ``B``, ``byte`` or no unit are bytes. A lower-case ``b`` could be either.

    Raises:
        UsageError: Not a positive finite rate, or ambiguous.
    """
    hint = "Write for example 2MB/s (bytes) or 16Mbit/s (bits)"
    match = _RATE.fullmatch(text.strip()) if text.isascii() else None
    if match is None:
        raise UsageError(f"not a rate: {text!r}", hint=hint)
    unit = match["unit"] or "B"
    if unit == "b":
        raise UsageError(f"{text!r} could mean bits or bytes", hint=hint)
    prefix = (match["prefix"] or "").lower()
    base = 1024 if prefix.endswith("i") else 1000
    power = " kmgt".index(prefix[0]) if prefix else 0
    rate = float(match["number"]) * float(base**power)
    if unit.lower().startswith("bit") or unit.lower() == "bps":
        rate /= 8
    if not 0 < rate < math.inf:
        raise UsageError(f"a rate must be greater than zero: {text!r}", hint=hint)
    return rate


class RateLimiter:
    """A token bucket. Threads queue for their tokens and sleep; nobody polls.

    Args:
        bytes_per_second: The limit over all threads together.

    Attributes:
        grant: Bytes that pass at once, so that threads take turns.
    """

    def __init__(self, bytes_per_second: float) -> None:
        if not 0 < bytes_per_second < math.inf:
            raise UsageError(f"a rate must be greater than zero: {bytes_per_second}")
        self.bytes_per_second = bytes_per_second
        self.grant = max(1, int(bytes_per_second * _GRANT))
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._paid_until = time.monotonic()

    def acquire(self, count: int) -> None:
        """Return when ``count`` more bytes may pass.

        Raises:
            Cancelled: `cancel` was called, before or meanwhile.
        """
        while count > 0:
            part = min(count, self.grant)
            count -= part
            with self._lock:
                now = time.monotonic()
                # Time not used is saved up for one grant only, not for a burst later on.
                self._paid_until = (
                    max(self._paid_until, now - _GRANT) + part / self.bytes_per_second
                )
                wait = self._paid_until - now
            # Event.wait is a sleep that cancel() can end.
            if self._cancelled.wait(max(0.0, wait)):
                raise Cancelled("the transfer was cancelled")

    def cancel(self) -> None:
        """Wake all threads; they and all later callers get Cancelled."""
        self._cancelled.set()


class ThrottledStore(Forwarding):
    """Another store, its bytes passed on no faster than a limiter allows.

    The limiter may be shared with other stores; closing this store leaves it alone.
    """

    def __init__(self, store: Store, limiter: RateLimiter) -> None:
        super().__init__(store)
        self._limiter = limiter

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        data = super().read(key, limit=limit)
        self._limiter.acquire(len(data))
        return data

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`."""
        data, mark = super().poll(key, limit=limit, mark=mark)
        self._limiter.acquire(len(data or b""))
        return data, mark

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        return self._stream(super().stream(key, start, length))

    def _stream(self, pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        try:
            for piece in pieces:
                for at in range(0, len(piece), self._limiter.grant):
                    part = piece[at : at + self._limiter.grant]
                    self._limiter.acquire(len(part))
                    yield part
        finally:
            pieces.close()  # now, not when the garbage collector comes by
