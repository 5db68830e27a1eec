"""The first request for a manifest, on its way while the rest of P2U is still being imported.

A module of its own because it has to be imported before the rest.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from threading import Lock, Thread

from p2u.cache.settings import is_offline
from p2u.package.paths import MANIFEST_KEY
from p2u.stores import Forwarding, Store, open_store

#: Most bytes of a manifest that is read like this; a larger one is read again, in the usual way.
LIMIT = 1 << 20


class EarlyManifest(Forwarding):
    """A store that asks for the manifest at once, and has it when it is read first.

    Args:
        store: Open.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = Lock()
        self._coming: Future[bytes | None] | None = Future()
        Thread(
            target=self._ask, args=(self._coming,), daemon=True, name="p2u-early-manifest"
        ).start()

    def _ask(self, coming: Future[bytes | None]) -> None:
        try:
            coming.set_result(self.store.read(MANIFEST_KEY, limit=LIMIT))
        except BaseException:  # noqa: BLE001 - the usual way meets the same error, and retries
            coming.set_result(None)

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`; the first time, the manifest is what was asked for early."""
        data = None
        if key == MANIFEST_KEY:
            with self._lock:
                coming, self._coming = self._coming, None
            data = coming.result() if coming else None
        if data is None or len(data) > limit:
            return super().read(key, limit=limit)
        return data


def ask_early(source: str | os.PathLike[str] | Store) -> EarlyManifest | None:
    """Ask for the manifest of a package at a URL; None for a source that answers at once.

    Raises:
        The errors of `open_store`.
    """
    if isinstance(source, Store) or is_offline():
        return None
    store = open_store(source)
    return EarlyManifest(store) if store.remote else None
