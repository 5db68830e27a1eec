"""Stores: where the bytes of a package come from. They know keys and byte ranges, nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from p2u.errors import UnsupportedError, UsageError
from p2u.stores.base import MANIFEST_KEY, Store, check_key
from p2u.stores.local import LocalStore
from p2u.stores.throttle import RateLimiter, ThrottledStore, parse_rate

__all__ = [
    "LocalStore",
    "RateLimiter",
    "Store",
    "ThrottledStore",
    "check_key",
    "open_store",
    "parse_rate",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")


def open_store(
    source: str | os.PathLike[str],
    *,
    connect_timeout: float = 10.0,
    stall_timeout: float = 30.0,
    headers: Mapping[str, str] | None = None,
) -> Store:
    """Open the package at a path or URL. Nothing is requested from the network yet.

    Args:
        source: A folder, its ``p2u.json``, a ``file://`` URL, or an ``http(s)://`` URL of either;
            the query of a URL (a presigned one) is kept for every key.
        connect_timeout: Seconds to wait for a connection.
        stall_timeout: Seconds without progress (see `HttpStore`) after which a request is given up.
        headers: Sent with each HTTP request, to the host of ``source`` only (credentials).

    Raises:
        NotFoundError: The folder does not exist.
        UsageError: ``source`` is no valid path or URL.
        UnsupportedError: A URL scheme that no store knows.
    """
    text = os.fspath(source)
    # Two letters at least: "C:\models" is a path.
    match = _SCHEME.match(text) if isinstance(source, str) else None
    if match is None:
        return LocalStore(text)
    scheme = match[1].lower()
    if scheme in ("http", "https"):
        from p2u.stores.http.store import HttpStore  # imports urllib3: only for those who need it

        return HttpStore(
            text, connect_timeout=connect_timeout, stall_timeout=stall_timeout, headers=headers
        )
    if scheme == "file":
        return LocalStore(_file_url_path(text))
    if match[2] is None:  # "odd:name" without slashes can only be meant as a path
        return LocalStore(text)
    raise UnsupportedError(
        f"no store for {scheme}:// URLs",
        file=text.split("?")[0] if "@" not in text else f"{scheme}://...",
        hint="Use a path or an http(s) URL; buckets give presigned https URLs",
    )


def _file_url_path(url: str) -> str:
    """The path that a file URL means."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(
            "a file URL must not name another host",
            file=url,
            hint=f"Write file:///path; {MANIFEST_KEY} or its folder",
        )
    if os.name == "nt":
        from urllib.request import url2pathname

        return url2pathname(parts.path)
    return unquote(parts.path)
