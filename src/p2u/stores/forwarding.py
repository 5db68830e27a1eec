"""Stores that hand everything on to another store: the base for limits, counters and the like."""

from __future__ import annotations

from collections.abc import Generator

from p2u.stores.base import Store


class Forwarding(Store):
    """Another store, unchanged. Derive from it, and override what is to be different.

    Args:
        store: Where the bytes come from. Closing this store closes it.

    Attributes:
        store: The same.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url = store.url

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        return self.store.read(key, limit=limit)

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`."""
        return self.store.poll(key, limit=limit, mark=mark)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        return self.store.stream(key, start, length)

    @property
    def remote(self) -> bool:
        """See `Store.remote`."""
        return self.store.remote

    @property
    def supports_ranges(self) -> bool:
        """See `Store.supports_ranges`."""
        return self.store.supports_ranges

    @property
    def knows_ranges(self) -> bool:
        """See `Store.knows_ranges`."""
        return self.store.knows_ranges

    def close(self) -> None:
        """Close the other store."""
        self.store.close()


class KeepOpen(Forwarding):
    """A store that outlives several attempts: `close` leaves it open, only `end` closes it."""

    def close(self) -> None:
        """Does nothing: the next attempt needs the store."""

    def end(self) -> None:
        """Close the store."""
        self.store.close()
