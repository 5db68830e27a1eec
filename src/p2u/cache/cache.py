"""A cache as a whole: its objects and its manifests."""

from __future__ import annotations

import os
from pathlib import Path

from p2u.cache.manifests import CachedManifests
from p2u.cache.objects import CachedObjects
from p2u.cache.settings import cache_folder, cache_size, is_offline


class Cache:
    """The cache in a folder. Nothing is made before something is kept.

    Args:
        folder: None: see `cache_folder`.
        limit: Most bytes; None: see `cache_size`.

    Attributes:
        objects: Payloads of chunks, layouts and indices, by digest.
        manifests: By URL.
        offline: Nothing is asked of a network.

    Raises:
        UsageError: A variable of the environment is not valid.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> None:
        self.folder = cache_folder() if folder is None else Path(folder)
        self.objects = CachedObjects(
            self.folder / "objects", cache_size() if limit is None else limit
        )
        self.manifests = CachedManifests(self.folder / "manifests")
        self.offline = is_offline()

    def prune(self, limit: int | None = None, before: float | None = None) -> tuple[int, int]:
        """`CachedObjects.prune`; with nothing left, this user's manifests are removed, too."""
        removed = self.objects.prune(limit, before)
        if limit == 0:
            for manifest in self.manifests.all():
                self.manifests.remove(manifest)
        return removed


def open_cache(cache: bool | str | os.PathLike[str] | Cache) -> Cache | None:
    """The cache that a caller asks for: True for the usual one, False for none, or a folder.

    A cache of no bytes is none, unless nothing may be asked of a network.

    Raises:
        UsageError: A variable of the environment is not valid.
    """
    if isinstance(cache, Cache):
        return cache
    if cache is False:
        return None
    opened = Cache(None if cache is True else cache)
    return opened if opened.objects.limit > 0 or opened.offline else None
