"""The contract that every store keeps."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType

from p2u.errors import FormatError, StoreError, UsageError

#: Largest piece that a stream yields, bytes: big enough for speed, small enough for 16 threads.
PIECE = 256 << 10

MANIFEST_KEY = "p2u.json"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_key(key: str) -> tuple[str, ...]:
    """The parts of a key; a key is relative, ``/``-separated and stays below the root.

    Keys come from manifests, which strangers write.

    Raises:
        FormatError: The key is empty, absolute, has ``.``, ``..``, backslash, control characters,
            a drive letter, or cannot be encoded.
    """
    parts = tuple(key.split("/"))
    bad = (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in key
        or _CONTROL.search(key) is not None
        or _DRIVE.match(key) is not None
    )
    try:
        key.encode()
    except UnicodeEncodeError:
        bad = True
    if bad:
        raise FormatError(
            "not a valid key: expected relative names with '/' between them, no '.' or '..'",
            file=ascii(key),
            hint="The package is damaged or hostile; do not use it",
        )
    return parts


def check_range(start: int, length: int) -> None:
    """Raises UsageError for a negative start or length."""
    if start < 0 or length < 0:
        raise UsageError(f"not a byte range: start {start}, length {length}")


def too_short(where: str, size: int, start: int, length: int) -> StoreError:
    """The error for a range that ends behind the object's end."""
    return StoreError(
        f"has {size} bytes, but bytes {start} to {start + length} were expected",
        file=where,
        hint="The package is incomplete or not the one of this manifest; publish or copy it again",
    )


def too_large(where: str, limit: int, size: int | None = None) -> StoreError:
    """The error for a small object that is not small."""
    found = "more" if size is None else f"{size}"
    return StoreError(
        f"has {found} bytes, at most {limit} were expected",
        file=where,
        hint="This is not the file of a P2U package",
    )


class Store(ABC):
    """Read-only objects by key and byte range. Thread-safe.

    Attributes:
        url: For messages: never has credentials, a query or a fragment.
    """

    url: str

    @abstractmethod
    def read(self, key: str, *, limit: int) -> bytes:
        """The whole of a small object; never buffers more than ``limit`` + 1 bytes.

        Raises:
            NotFoundError: No such object.
            StoreError: It is larger than ``limit``, or could not be read (see ``retryable``).
            DiskError: A local file could not be read.
            FormatError: ``key`` is not valid.
        """

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """A small object that is replaced now and then, if it is another one than last time.

        Stores that can ask for changes only override this; here it is read and compared.

        Args:
            key: Of the object.
            limit: See `read`.
            mark: What the last call returned; empty at first.

        Returns:
            The object, None if it is that of the last call, and a mark for the next one.

        Raises:
            The errors of `read`.
        """
        data = self.read(key, limit=limit)
        now = hashlib.sha256(data).hexdigest()
        return (None if now == mark else data), now

    @abstractmethod
    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """Bytes ``start`` to ``start + length`` in pieces of at most `PIECE` bytes.

        The pieces add up to exactly ``length`` bytes, or an error is raised. Closing the generator
        early frees its connection or file. Nothing is requested before the first piece is asked
        for; nothing at all when ``length`` is 0.

        Raises:
            The errors of `read`; UsageError for a negative range; IntegrityError when the object
            was seen to change since an earlier request.
        """

    @property
    def supports_ranges(self) -> bool:
        """False once the server was seen to ignore ranges: ask for whole objects then."""
        return True

    @property
    def knows_ranges(self) -> bool:
        """Whether the store has seen that `supports_ranges` is true, or no."""
        return not self.supports_ranges

    def close(self) -> None:  # noqa: B027 - a store without resources has nothing to do
        """Free all resources. Transfers under way in other threads end with a StoreError."""

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
