"""Folders of a web server that list their files: by an index page, or a file ``SHA256SUMS``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

from p2u.errors import FormatError, NotFoundError, StoreError
from p2u.package.paths import check_path
from p2u.stores.base import StoreOptions
from p2u.stores.http.addressed import AddressedStore
from p2u.stores.http.headers import content_length
from p2u.stores.http.urls import BaseUrl
from p2u.stores.writable import StoredObject

SUMS = "SHA256SUMS"
#: Limits of a listing: files, depth of folders, bytes of a page.
MOST_FILES, MOST_DEPTH, MOST_PAGE = 10_000, 8, 16 << 20
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


class HttpFolder(AddressedStore):
    """A folder of plain files.

    Args:
        url: The folder; its query is sent with each request.
        options: See `HttpStore`.

    Raises:
        UsageError: ``url`` is not valid.
    """

    def __init__(self, url: str, options: StoreOptions) -> None:
        base = BaseUrl.parse(url)
        super().__init__(base.display, base.request_url("x"), options, base.request_url)
        self._folder = base
        if base.credentials:
            self.authorize({"Authorization": base.credentials})

    def list_objects(self) -> Iterator[StoredObject]:
        """All files of the folder and of those in it, as far as it lists them.

        Raises:
            StoreError: It could not be read, or is too large.
        """
        found = self._sums()
        if found is None:
            found = {}
            self._walk("", 0, found)
        for key, entry in found.items():
            if entry.size >= 0:
                yield entry
                continue
            answer = self.call("HEAD", self._folder.request_url(key), name=f"{self.url}/{key}")
            size = content_length(answer.headers)
            if size is None:
                raise StoreError(
                    "the server does not say how many bytes it has", file=f"{self.url}/{key}"
                )
            yield StoredObject(key, size, entry.sha256)

    def _sums(self) -> dict[str, StoredObject] | None:
        """The files that ``SHA256SUMS`` names; None if there is no such file."""
        try:
            text = self.read(SUMS, limit=MOST_PAGE).decode("utf-8", "replace")
        except NotFoundError:
            return None
        found: dict[str, StoredObject] = {}
        for line in text.splitlines():
            match = _LINE.fullmatch(line.strip())
            if match is not None:
                _add(found, StoredObject(match[2], -1, match[1].lower()))
        return found or None

    def _walk(self, folder: str, depth: int, found: dict[str, StoredObject]) -> None:
        """Add the files of a folder, and of those in it."""
        for name, size, is_folder in self._entries(folder):
            if is_folder and depth < MOST_DEPTH:
                self._walk(f"{folder}{name}/", depth + 1, found)
            elif not is_folder:
                _add(found, StoredObject(folder + name, size))
            if len(found) > MOST_FILES:
                raise StoreError(f"lists more than {MOST_FILES} files", file=self.url)

    def _entries(self, folder: str) -> list[tuple[str, int, bool]]:
        """``(name, size or -1, whether it is a folder)`` of a page."""
        try:
            at = self._folder.request_url(f"{folder}x")
            place, _, query = at.partition("?")
            url = place[: -len("x")] + (f"?{query}" if query else "")
            answer = self.call("GET", url, headers={"Accept": "text/html, application/json"})
        except FormatError:
            return []
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        text = answer.data[:MOST_PAGE].decode("utf-8", "replace")
        if kind == "application/json":
            return _of_json(text)
        return _of_html(text) if kind == "text/html" else []


def _add(found: dict[str, StoredObject], entry: StoredObject) -> None:
    try:
        check_path(entry.key)
    except FormatError:
        return
    found[entry.key] = entry


def _of_json(text: str) -> list[tuple[str, int, bool]]:
    """The entries of nginx's ``autoindex_format json``."""
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for item in tree if isinstance(tree, list) else ():
        if isinstance(item, dict) and isinstance(item.get("name"), str) and "/" not in item["name"]:
            size = item.get("size")
            known = size if isinstance(size, int) and size >= 0 else -1
            found.append((item["name"], known, item.get("type") == "directory"))
    return found


def _of_html(text: str) -> list[tuple[str, int, bool]]:
    """The entries of an index page, as nginx, Apache and Python's server make it.

    Other pages have links, too: only names in the folder itself count.
    """
    parser = _Links()
    parser.feed(text)
    found = []
    for link in dict.fromkeys(parser.links):
        name = unquote(link.removeprefix("./"))
        folder = name.endswith("/")
        name = name.removesuffix("/")
        odd = "?" in link or "#" in link or ":" in link.partition("/")[0]
        if not odd and name and "/" not in name and name not in (".", ".."):
            found.append((name, -1, folder))
    return found


class _Links(HTMLParser):
    """The targets of all links."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link."""
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
