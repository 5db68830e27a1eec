"""Open a place of plain files that is no package: a repository of the Hub, a folder, a bucket."""

from __future__ import annotations

import os

from p2u.errors import StoreError
from p2u.stores.base import Store, StoreOptions
from p2u.stores.schemes import open_store, scheme_of
from p2u.stores.writable import StoredObject, WritableStore


def open_listing(source: str | os.PathLike[str]) -> tuple[Store, list[StoredObject]] | None:
    """The store at a URL, with all files that it lists; None if it cannot list any.

    The caller closes the store.

    Raises:
        StoreError: It could not be listed.
        The errors of `open_store`.
    """
    scheme = scheme_of(source)
    if scheme is None or scheme == "file":
        return None  # they are here already
    if scheme in ("http", "https"):
        from p2u.stores.http.folder import HttpFolder

        folder = HttpFolder(os.fspath(source), StoreOptions())
        try:
            return folder, list(folder.list_objects())
        except StoreError:  # most servers list nothing, and say so with 403 or 404
            folder.close()
            return None
        except BaseException:
            folder.close()
            raise
    store = open_store(source)
    try:
        if isinstance(store, WritableStore):
            return store, list(store.list_objects())
    except BaseException:
        store.close()
        raise
    store.close()
    return None
