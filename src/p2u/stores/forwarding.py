"""A store that somebody else has opened, for several attempts."""

from __future__ import annotations

from collections.abc import Generator

from p2u.stores import Store


class KeepOpen(Store):
    """The user's store, over several attempts: only `end` closes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        return self._store.read(key, limit=limit)

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`."""
        return self._store.poll(key, limit=limit, mark=mark)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        return self._store.stream(key, start, length)

    @property
    def supports_ranges(self) -> bool:
        """See `Store.supports_ranges`."""
        return self._store.supports_ranges

    @property
    def knows_ranges(self) -> bool:
        """See `Store.knows_ranges`."""
        return self._store.knows_ranges

    def end(self) -> None:
        """Close the store."""
        self._store.close()
