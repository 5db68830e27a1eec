"""The table of schemes: the store that opens the URLs of each, imported when it is first used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from p2u.errors import UnsupportedError
from p2u.stores.base import Store, StoreOptions
from p2u.stores.local import LocalStore, create_folder, path_of
from p2u.stores.writable import WritableStore

#: Scheme, in lower case, to ``module:name`` of what opens its URLs: a class or function that is
#: called with the URL and `StoreOptions`, and returns a `Store` before it asks for anything.
SCHEMES: dict[str, str] = {
    "az": "p2u.stores.cloud:CloudStore",
    "file": "p2u.stores.local:open_file_url",
    "gs": "p2u.stores.cloud:CloudStore",
    "hf": "p2u.stores.hf:HubStore",
    "http": "p2u.stores.http.store:HttpStore",
    "https": "p2u.stores.http.store:HttpStore",
    "oci": "p2u.stores.oci:OciStore",
    "s3": "p2u.stores.cloud:CloudStore",
}

#: Two letters at least: "C:\\models" is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")


def scheme_of(source: str | os.PathLike[str]) -> str | None:
    """The scheme of a URL, in lower case; None for a path.

    A path may have a colon: ``odd:name`` is a URL only if the table has ``odd``.
    """
    match = _SCHEME.match(source) if isinstance(source, str) else None
    if match is None:
        return None
    scheme = match[1].lower()
    return scheme if match[2] or scheme in SCHEMES else None


def open_store(
    source: str | os.PathLike[str],
    *,
    connect_timeout: float = 10.0,
    stall_timeout: float = 30.0,
    headers: Mapping[str, str] | None = None,
) -> Store:
    """Open the package at a path or URL. Nothing is requested from the network yet.

    Args:
        source: A folder, its ``p2u.json``, or a URL of either with a scheme in `SCHEMES`; the query
            of an HTTP URL (a presigned one) is kept for every key.
        connect_timeout: See `StoreOptions`.
        stall_timeout: See `StoreOptions`.
        headers: See `StoreOptions`.

    Raises:
        NotFoundError: The folder does not exist.
        UsageError: ``source`` is no valid path or URL.
        UnsupportedError: A URL scheme that no store knows.
    """
    scheme = scheme_of(source)
    text = os.fspath(source)
    if scheme is None:
        return LocalStore(text)
    if scheme not in SCHEMES:
        raise UnsupportedError(
            f"no store for {scheme}:// URLs",
            file=text.split("?")[0] if "@" not in text else f"{scheme}://...",
            hint=f"Use a path, or a URL that begins with {', '.join(sorted(SCHEMES))}",
        )
    module, _, name = SCHEMES[scheme].partition(":")
    opener = getattr(import_module(module), name)
    store: Store = opener(text, StoreOptions(connect_timeout, stall_timeout, headers))
    return store


def open_writable(target: str | os.PathLike[str], **options: Any) -> WritableStore:
    """Open the place of a package to write to it; a folder is made if there is none.

    Args:
        target: As for `open_store`.
        options: See `open_store`.

    Raises:
        UnsupportedError: Packages at such a URL can only be read.
        DiskError: The folder cannot be made.
        The errors of `open_store`.
    """
    scheme = scheme_of(target)
    if scheme in (None, "file"):
        text = os.fspath(target)
        return create_folder(text if scheme is None else path_of(text))
    store = open_store(target, **options)
    if isinstance(store, WritableStore):
        return store
    store.close()
    raise UnsupportedError(
        "a package at this URL can only be read",
        file=store.url,
        hint="Write to a folder or to a URL of another kind (see docs/stores.md), which it serves",
    )
