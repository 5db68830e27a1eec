"""Back-off: how long to wait between failed tries of a transfer, a watch or a live model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

#: Most seconds to wait because a server asks for them.
MOST_ASKED = 3600.0
#: Doublings after which a wait grows no more.
_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double with each failure in a row.

    Attributes:
        base: Seconds to wait after the first failure; doubles each time.
        cap: Most seconds to wait, unless the server asks for more.
        most_asked: Most seconds that the server can ask for.
        uniform: Draws a number between two others. Each wait is cut by up to a half at random, so
            that a crowd of clients does not come back at the same moment.
    """

    base: float = 0.5
    cap: float = 30.0
    most_asked: float = field(default=MOST_ASKED, kw_only=True)
    uniform: Callable[[float, float], float] = field(
        default=random.uniform, repr=False, compare=False, kw_only=True
    )

    def delay(self, failures: int, asked: float | None = None) -> float:
        """Seconds to wait before the next try.

        Args:
            failures: Failures in a row, 1 or more.
            asked: Seconds that the server asks for, at least.
        """
        longest = min(self.cap, self.base * 2.0 ** min(failures - 1, _DOUBLINGS))
        return max(longest * self.uniform(0.5, 1.0), min(asked or 0.0, self.most_asked))


@dataclass(frozen=True, slots=True)
class Retry(Backoff):
    """When to try again after a failure of the store.

    Where the server asks for more than ``most_asked`` seconds, the error is passed on at once.

    Attributes:
        attempts: Tries without any progress after which the error is passed on.
    """

    attempts: int = field(default=8, kw_only=True)
