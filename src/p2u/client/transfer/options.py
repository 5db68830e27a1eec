"""Transfer options: how bytes are fetched, whatever they are fetched for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2u.client.transfer.requests import DEFAULT_SIZES, RequestSizes
from p2u.errors import UsageError
from p2u.processors import processors
from p2u.stores.backoff import Retry
from p2u.stores.throttle import RateLimiter, parse_rate

if TYPE_CHECKING:
    from p2u.cache.cache import Cache

#: Most threads that are used unless more are asked for.
MOST_THREADS = 8
#: Threads that fill a link even where there are fewer processors.
LINK_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """The options of a transfer.

    Functions that fetch take the first five, or those of them that apply, by keyword and make one
    of these; all that is below them passes it on as it is.

    Attributes:
        jobs: Threads that fetch, check and decode, 1 or more. None: as many as there are
            processors, at most 8; at least 4 where the package is remote, to fill the link.
        limit_rate: Most bytes per second, over all threads: a number, or text such as ``"2MB/s"``
            or ``"16Mbit/s"``. None: no limit.
        retry: When to try again after failures of the store. None: ``Retry()``.
        straight: True: fetch all levels of a range of rows together and make only the last state
            wanted; False: make each state on the way. None: straight where the line is fast and
            nobody waits for an earlier state.
        max_bytes: Most bytes that a version's files together may have, and each of the objects that
            describe it. A package's few bytes can announce any number; None: no limit.
        request_sizes: How many bytes to ask for at a time.
        cache: Of a package on another machine: keep what comes, and begin with what is there. True
            for the usual folder (docs/cache.md), or a folder.

    Raises:
        UsageError: ``jobs``, ``limit_rate`` or ``max_bytes`` is not valid.
    """

    jobs: int | None = None
    limit_rate: float | str | None = None
    retry: Retry | None = None
    straight: bool | None = None
    max_bytes: int | None = None
    request_sizes: RequestSizes = DEFAULT_SIZES
    cache: bool | str | os.PathLike[str] | Cache = False

    def __post_init__(self) -> None:
        """Check what was given."""
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, not {self.jobs}")
        if self.max_bytes is not None and self.max_bytes < 0:
            raise UsageError(f"max_bytes must be at least 0, not {self.max_bytes}")
        self.limiter()

    def threads(self, *, remote: bool) -> int:
        """Threads for a package that is, or is not, on another machine."""
        if self.jobs is not None:
            return self.jobs
        return min(MOST_THREADS, max(LINK_THREADS if remote else 1, processors()))

    def limiter(self) -> RateLimiter | None:
        """A new limiter of the rate; None if there is no limit."""
        rate = self.limit_rate
        if rate is None:
            return None
        return RateLimiter(parse_rate(rate) if isinstance(rate, str) else rate)


DEFAULT_OPTIONS = TransferOptions()
