"""Interpret the base URL of a package: folder, query, credentials, and how to show it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from p2u.errors import StoreError, UsageError
from p2u.package.paths import MANIFEST_KEY, check_path

_DEFAULT_PORT = {"http": 80, "https": 443}


def split_url(url: str) -> SplitResult:
    """Split an http(s) URL.

    Raises:
        UsageError: It is not a URL with a host; has control characters or a bad port.
    """
    shown = display_url(url)
    # urlsplit would silently drop tabs and newlines.
    if re.search(r"[\x00-\x20\x7f]", url.strip()):
        raise UsageError("a URL cannot have spaces or control characters", file=ascii(shown))
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # checked on access
    except ValueError as error:
        raise UsageError(f"not a valid URL ({error})", file=shown) from error
    if parts.scheme not in _DEFAULT_PORT or not parts.hostname:
        raise UsageError("not an http(s) URL with a host", file=shown)
    return parts


def display_url(url: str) -> str:
    """The URL without credentials, query and fragment, for messages."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/]*@", r"\1", bare)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: who gets credentials."""
    parts = split_url(url)
    port = parts.port or _DEFAULT_PORT[parts.scheme]
    return parts.scheme, (parts.hostname or "").lower(), port


@dataclass(frozen=True)
class BaseUrl:
    """The folder that a package's keys are relative to.

    Attributes:
        display: For messages.
        credentials: Value of the Authorization header from ``user:password@``, if any.
    """

    display: str
    _prefix: str = field(repr=False)
    _query: str = field(repr=False)
    credentials: str | None = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> BaseUrl:
        """Parse the URL of a folder or of its ``p2u.json``.

        Raises:
            UsageError: Not a valid http(s) URL.
        """
        parts = split_url(url)
        path = parts.path.rstrip("/")
        if path.endswith(f"/{MANIFEST_KEY}"):
            path = path[: -len(MANIFEST_KEY) - 1]
        userinfo, at, host = parts.netloc.rpartition("@")
        credentials = None
        if at:
            user, _, password = userinfo.partition(":")
            plain = f"{unquote(user)}:{unquote(password)}".encode()
            credentials = "Basic " + base64.b64encode(plain).decode()
        prefix = f"{parts.scheme}://{host}{path}"
        query = f"?{parts.query}" if parts.query else ""
        return cls(prefix, prefix, query, credentials)

    def request_url(self, key: str) -> str:
        """The URL of a key; raises FormatError for a key that is not valid."""
        return f"{self._prefix}/{quote('/'.join(check_path(key, 'key')))}{self._query}"

    def display_url(self, key: str) -> str:
        """The URL of a key for messages."""
        return f"{self.display}/{key}"


def redirect_target(url: str, location: str | None, shown: str) -> str:
    """The target of a redirect.

    Raises:
        StoreError: No or a bad target, another scheme, or from https back to http.
    """
    try:
        # Some servers send raw spaces or UTF-8, which http.client reads as Latin-1.
        raw = (location or "").encode("latin-1", "replace").strip()
        target = urljoin(url, quote(raw, safe=":/?#[]@!$&'()*+,;=%-._~"))
        parts = split_url(target)
    except (UsageError, ValueError) as error:
        raise StoreError(
            f"was redirected to an address that is not valid: {display_url(location or '')!r}",
            file=shown,
            hint="Check the URL and the server",
        ) from error
    if urlsplit(url).scheme == "https" and parts.scheme != "https":
        raise StoreError(
            "was redirected from https to http, which is not safe",
            file=shown,
            hint="Check the URL and the server",
        )
    if not location:
        raise StoreError(
            "was redirected, but the server did not say where",
            file=shown,
            hint="Check the URL and the server",
        )
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
