"""Choose the files whose bytes are compared with the publisher's digests after an update."""

from __future__ import annotations

from collections.abc import Sequence

from p2u.errors import UsageError
from p2u.package.manifest import Release

#: Files in their exact state, files of every state, none.
EXACT, ALL, NONE = CHECKS = ("exact", "all", "none")


def check_choice(check: str, allowed: Sequence[str] = CHECKS) -> None:
    """Raise UsageError for an unknown choice."""
    if check not in allowed:
        raise UsageError(f"check must be one of {', '.join(allowed)}, not {check!r}")


def is_checked(check: str, release: Release, file: int, state: int) -> bool:
    """Whether a file is compared with its digest.

    Bytes that were decoded from verified chunks are right, unless a program or a machine is at
    fault. Therefore the digest of a file is checked once, when it is exact.

    Args:
        check: One of `CHECKS`.
        release: The release.
        file: Number of the file.
        state: Number of the state in the release.
    """
    entry = release.files[file]
    exact = entry.digest(state) == entry.digest(len(release.states) - 1)
    return check == ALL or (check == EXACT and exact)
