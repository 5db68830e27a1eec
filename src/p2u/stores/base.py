"""The contract that every store keeps."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import TracebackType

from p2u.errors import StoreError, UsageError

#: Largest piece that a stream yields, bytes: big enough for speed, small enough for 16 threads.
PIECE = 256 << 10


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Settings of connections; a store ignores those that mean nothing to it.

    Attributes:
        connect_timeout: Seconds to wait for a connection, per address of the host.
        stall_timeout: Seconds without progress after which a request is given up.
        headers: Sent with each HTTP request, to the host of the URL only (credentials).
    """

    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    headers: Mapping[str, str] | None = None


def check_range(start: int, length: int) -> None:
    """Raises UsageError for a negative start or length."""
    if start < 0 or length < 0:
        raise UsageError(f"not a byte range: start {start}, length {length}")


def too_short(where: str, size: int, start: int, length: int) -> StoreError:
    """The error for a range that ends behind the object's end."""
    return StoreError(
        f"has {size} bytes, but bytes {start} to {start + length} were expected",
        file=where,
        hint="The package is incomplete, or of another manifest; publish or copy it again",
    )


def too_large(where: str, limit: int, size: int | None = None) -> StoreError:
    """The error for a small object that is not small."""
    found = "more" if size is None else f"{size}"
    return StoreError(
        f"has {found} bytes, at most {limit} were expected",
        file=where,
        hint="This is not the file of a P2U package",
    )


def closed_error(where: str) -> StoreError:
    """The error of a transfer whose store was closed."""
    return StoreError("the store was closed", file=where)


class Store(ABC):
    """Read-only objects by key and byte range. Thread-safe.

    `p2u.package.paths.check_path` is the rule for keys. Whoever adds a member here adds it to
    `p2u.stores.forwarding.Forwarding`, too.

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
            The errors of `read`; UsageError for a negative range. What responses say of an object
            (ETag, size) is not compared: digests show whether its bytes are the right ones.
        """

    @property
    def remote(self) -> bool:
        """Whether the bytes come over a network, so that each request costs a round trip."""
        return False

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
