"""Objects with threads, which belong to the process that made them."""

from __future__ import annotations

from typing import Any, NoReturn

from p2u.errors import UsageError


class OneProcess:
    """Base class of objects that cannot be pickled, and say so."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        kind = type(self).__name__
        raise UsageError(
            f"a {kind} has threads of its own and belongs to its process: it cannot be pickled",
            hint=f"Give the other process the package's path or URL, to make a {kind} of its own",
        )
