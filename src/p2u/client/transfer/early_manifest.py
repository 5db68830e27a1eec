"""The first request of all, on its way while the rest of this package is still being imported."""

from __future__ import annotations

import os
from concurrent.futures import Future
from threading import Thread

from p2u.stores import Store, open_store
from p2u.stores.base import MANIFEST_KEY

#: Most bytes of a manifest that is read like this; a larger one is read again, in the usual way.
_LIMIT = 1 << 20


class EarlyManifest:
    """A store, and its manifest if that came at the first attempt.

    Args:
        store: Open.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._coming: Future[bytes | None] = Future()
        Thread(target=self._read, daemon=True, name="p2u-greeting").start()

    def _read(self) -> None:
        try:
            self._coming.set_result(self.store.read(MANIFEST_KEY, limit=_LIMIT))
        except BaseException:  # noqa: BLE001 - who reads it again meets the same error, and retries
            self._coming.set_result(None)

    def manifest(self) -> bytes | None:
        """The manifest's bytes, when they are here; None if they have to be read once more."""
        return self._coming.result()


def ask_early(source: str | os.PathLike[str] | Store) -> EarlyManifest | None:
    """Ask for the manifest of a package at a URL; None for other sources, which answer at once.

    Raises:
        UsageError: The URL is not valid.
    """
    if not isinstance(source, str) or not source.lower().startswith(("http://", "https://")):
        return None
    return EarlyManifest(open_store(source))
