"""Interpret the status and the headers of an HTTP response."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from p2u.errors import NotFoundError, StoreError

#: Request headers that a server may answer with 304.
CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
#: Seconds in which an object may change again without another Last-Modified, or another ETag where
#: that is made of it.
_TICK = 2.0

#: A server that asks for more is as good as down.
MAX_RETRY_AFTER = 86_400.0

_RETRYABLE = frozenset({408, 421, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.IGNORECASE)
#: Beginnings of web pages, the longest first.
_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title")
_SHOWN_REASON = re.compile(r"[^\x20-\x7e]")


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; None when absent or not understood."""
    text = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return min(float(text), MAX_RETRY_AFTER)
    if not text:
        return None
    when = _seconds(text)
    if when is None:
        return None
    return min(max(0.0, when - (time.time() if now is None else now)), MAX_RETRY_AFTER)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Bytes of the body, if the header says so."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"\d{1,19}", text, re.ASCII) else None


@dataclass(frozen=True)
class ContentRange:
    """``bytes first-last/size``; ``size`` None for ``*``, first and last None for ``*/size``."""

    first: int | None
    last: int | None
    size: int | None

    @classmethod
    def parse(cls, value: str | None) -> ContentRange | None:
        """None when the header is absent or malformed."""
        match = _CONTENT_RANGE.fullmatch((value or "").strip())
        if match is None:
            return None
        first, last, size = match.groups()
        return cls(
            int(first) if first else None,
            int(last) if last else None,
            None if size == "*" else int(size),
        )


def status_error(
    status: int, reason: str | None, headers: Mapping[str, str], file: str
) -> StoreError:
    """The error for a response that is neither 200, 206 nor a redirect."""
    said = _SHOWN_REASON.sub("?", reason or "")[:60]
    answer = f"the server answered {status} {said}".rstrip()
    if status in (404, 410):
        return NotFoundError(f"not found ({answer})", file=file, hint="Check the URL")
    if status in (401, 403):
        hint = (
            "Check the credentials; a presigned URL may have expired, a missing file may be hidden"
        )
        return StoreError(f"access denied ({answer})", file=file, hint=hint)
    if status == 407:
        hint = "Check http_proxy and https_proxy"
        return StoreError(f"the proxy wants credentials ({answer})", file=file, hint=hint)
    if status == 416:
        return _not_satisfiable(headers, file)
    if status in _RETRYABLE:
        wait = parse_retry_after(headers.get("Retry-After"))
        answer += f" and asks to wait {wait:.0f} s" if wait else ""
        hint = "The server is busy or down; try again later"
        return StoreError(answer, file=file, hint=hint, retryable=True, retry_after=wait)
    return StoreError(answer, file=file, hint="Check the URL and the server")


def _not_satisfiable(headers: Mapping[str, str], file: str) -> StoreError:
    found = ContentRange.parse(headers.get("Content-Range"))
    size = f"{found.size} bytes" if found and found.size is not None else "fewer bytes"
    return StoreError(
        f"has {size} than expected: the server answered 416 to a range"
        if size == "fewer bytes"
        else f"has only {size}: the server answered 416 to a range",
        file=file,
        hint="The package is incomplete or not the one of this manifest; publish it again",
    )


def check_encoding(headers: Mapping[str, str], file: str) -> None:
    """Raises StoreError unless the body is the object's own bytes."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise StoreError(
            f"came with Content-Encoding {_SHOWN_REASON.sub('?', encoding)[:40]!r},"
            " expected the file's own bytes",
            file=file,
            hint="Switch compression off for this folder on the server or its proxy",
        )


def check_page(headers: Mapping[str, str], lead: bytes, file: str) -> None:
    """Raises StoreError if a whole object is a web page: nothing of a package begins like one.

    Args:
        headers: The response's.
        lead: The first bytes of its body.
        file: For messages.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if lead.lstrip()[: len(_PAGE[0])].lower().startswith(_PAGE):
        said = f" ({_SHOWN_REASON.sub('?', kind)[:40]})" if kind else ""
        raise StoreError(
            f"the server sent a web page{said}, not a file of a package",
            file=file,
            hint="A login page, or a proxy's? Log in, or check the URL",
        )


@dataclass(frozen=True)
class Mark:
    """The identity of an object at the last poll; see `Store.poll`. Empty: not known."""

    sha256: str = ""
    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, data: bytes, headers: Mapping[str, str]) -> Mark:
        """Of a response."""
        digest = hashlib.sha256(data).hexdigest()
        etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
        if modified:
            now, then = _seconds(headers.get("Date", "")), _seconds(modified)
            if now is None or then is None or now - then < _TICK:
                return cls(digest)
        return cls(digest, etag, modified)

    @classmethod
    def parse(cls, text: str) -> Mark:
        """The mark of a text from `text`; the empty one if it is not valid."""
        return cls(*json.loads(text)) if text else cls()

    def text(self) -> str:
        """As `Store.poll` hands it out."""
        return json.dumps([self.sha256, self.etag, self.modified])

    def conditions(self) -> dict[str, str]:
        """Headers that ask for another version only."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.modified} if self.modified else {}


def _seconds(date: str) -> float | None:
    """An HTTP date in seconds since 1970; None if it is not one."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
