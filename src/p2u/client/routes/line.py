"""Measure the speed of the line with the first payloads of an update, of which none is lost."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from p2u.client.routes import stretches
from p2u.client.transfer.bundles import Bundle, Wanted, single_bundles
from p2u.client.transfer.control import Meter
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import FormatError, IntegrityError, StoreError, UnsupportedError
from p2u.package.manifest import Update

#: Bytes of each measurement, and how much faster than measured the line may be: connections begin
#: slowly, and so do threads. The first one takes several round trips on any line.
MEASURED = ((256 << 10, 32.0), (2 << 20, 4.0), (8 << 20, 1.0))

#: Part of the longest measurement from which on the processor was the limit, and not the line.
BUSY = 0.8
#: Bytes from which a rate can be told.
ENOUGH = 64 << 10

#: Payloads that are here, see `Wanted`.
Held = dict[tuple[int, int], bytearray]


def measure(
    package: PackageReader,
    update: Update,
    held: Held,
    is_enough: Callable[[float], bool],
    tick: Callable[[], bool | None] = lambda: None,
) -> float:
    """The speed of the line in bytes per second, as exactly as a decision needs it.

    Infinite where the processor is the limit before anything is decoded: a state left out saves
    as much time as its decoding takes then.

    Args:
        package: Open.
        update: The one whose payloads are fetched.
        held: Gets them; has those of an earlier measurement.
        is_enough: Whether a line of such a speed is fast.
        tick: See `Fetcher.run`.

    Raises:
        The errors of `Fetcher.run`, and of reading indices.
    """
    bundles = single_bundles(package.index(update).chunks)
    left = deque(bundle for bundle in bundles if (0, bundle.number) not in held)

    def hold(bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        held[0, bundle.number] = bytearray(payloads[0])

    rate = 0.0
    for size, doubt in MEASURED:
        part: list[Bundle] = []
        while left and sum(bundle.length for bundle in part) < size:
            part.append(left.popleft())
        before = _Reading(package.meter)
        package.fetcher.run(Wanted((update.blobs,), tuple(part)), hold, tick)
        after = _Reading(package.meter)
        rate = after.rate_since(before)
        if size == MEASURED[-1][0] and after.busy_since(before) > BUSY:
            return math.inf
        if not left or is_enough(rate) or not is_enough(doubt * rate):
            break
    return rate


class _Reading:
    """A meter at a moment."""

    def __init__(self, meter: Meter) -> None:
        self._now, self._received, self._steady = meter.seconds, meter.received, meter.steady
        self._processor = time.process_time()

    def busy_since(self, before: _Reading) -> float:
        """Seconds of the processor per second; Python's threads take hardly more than one."""
        return (self._processor - before._processor) / max(self._now - before._now, 1e-6)

    def rate_since(self, before: _Reading) -> float:
        """Bytes per second; while threads could read, if that shows enough."""
        count = self._steady[0] - before._steady[0]
        seconds = self._steady[1] - before._steady[1]
        if count < ENOUGH:
            count, seconds = self._received - before._received, self._now - before._now
        return count / max(seconds, 1e-6)


def possible(package: PackageReader, stretch: stretches.Stretch) -> stretches.Stretch:
    """A stretch, or its first update where its updates do not fit together."""
    if not stretch.straight:
        return stretch
    for update in stretch.updates:
        package.look_ahead(update)
    try:
        fits = stretches.bundles(package, stretch) is not None
    except (StoreError, IntegrityError, FormatError, UnsupportedError):
        fits = False  # whoever needs the index meets the error again
    return stretch if fits else stretches.Stretch(stretch.updates[:1])
