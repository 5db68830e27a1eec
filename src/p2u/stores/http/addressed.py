"""HTTP stores that find the URL of a key themselves, and also send other requests than GET."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from p2u.errors import P2UError, StoreError
from p2u.package.paths import check_path
from p2u.stores.base import StoreOptions, closed_error
from p2u.stores.http.headers import status_error
from p2u.stores.http.store import NETWORK, Body, HttpStore, network_error
from p2u.stores.http.urls import BaseUrl, display_url, origin, split_url
from p2u.stores.writable import Content, WritableStore, size_of

#: Most bytes of an answer to `AddressedStore.call`.
MOST_ANSWER = 64 << 20


@dataclass(frozen=True)
class Answer:
    """A complete answer of a server.

    Attributes:
        status: Of HTTP.
        headers: Their names in any case.
        data: The body.
    """

    status: int
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True)
class _Addresses(BaseUrl):
    """A base whose keys have URLs of their own."""

    address: Callable[[str], str] = field(repr=False, default=str)

    def request_url(self, key: str) -> str:
        """See `BaseUrl.request_url`."""
        check_path(key, "key")
        return self.address(key)


class AddressedStore(HttpStore):
    """An HTTP store over any map from keys to URLs.

    Args:
        url: For messages, see `Store.url`.
        root: A URL of the server, whose origin alone gets ``headers`` and what `renew` adds.
        options: See `HttpStore`.
        address: The URL of a key.
        renew: After the server refused access: the headers to try again with, once; None if there
            are no others.
        denied: The remedy where access is refused.
    """

    def __init__(
        self,
        url: str,
        root: str,
        options: StoreOptions,
        address: Callable[[str], str],
        renew: Callable[[], Mapping[str, str] | None] = lambda: None,
        denied: str | None = None,
    ) -> None:
        super().__init__(root, options)
        self.url = url
        self.options = options
        self._base = _Addresses(url, root, "", None, address)
        self._renew = renew
        self._denied = denied

    def authorize(self, headers: Mapping[str, str]) -> None:
        """Send more headers with each request, to the origin only."""
        self._private = {**self._private, **headers}

    def _get(self, key: str, headers: dict[str, str]) -> Body:
        try:
            return super()._get(key, headers)
        except StoreError as error:
            if error.status != 401 or not self._renewed():
                raise self._explained(error) from None
        try:
            return super()._get(key, headers)
        except StoreError as error:
            raise self._explained(error) from None

    def _explained(self, error: StoreError) -> StoreError:
        if error.status in (401, 403) and self._denied:
            error.hint = self._denied
        return error

    def renew(self) -> None:
        """Ask for other headers now, because what they allow is not enough."""
        self._renewed()

    def _renewed(self) -> bool:
        found = self._renew()
        if found is not None:
            self.authorize(found)
        return found is not None

    def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        accept: tuple[int, ...] = (200, 201, 202, 204),
        name: str = "",
    ) -> Answer:
        """Send a request; redirects are not followed.

        Args:
            method: Of HTTP.
            url: Absolute.
            headers: More headers; an empty value takes one away.
            content: The body.
            accept: Statuses that are no error.
            name: For messages; the URL by default.

        Raises:
            StoreError: Any other status, or no answer.
            DiskError: The content's file cannot be read.
        """
        name = name or display_url(url)
        answer = self._call(method, url, headers or {}, content, name)
        if answer.status == 401 and 401 not in accept and self._renewed():
            answer = self._call(method, url, headers or {}, content, name)
        if answer.status in accept:
            return answer
        error = status_error(answer.status, None, answer.headers, name)
        error.status = answer.status
        raise self._explained(error)

    def _call(
        self, method: str, url: str, headers: Mapping[str, str], content: Content | None, name: str
    ) -> Answer:
        sent = {"Accept-Encoding": "identity", "User-Agent": "p2u"}
        if origin(url) == self._origin:
            sent |= self._private
        sent = {key: value for key, value in {**sent, **headers}.items() if value}
        if content is not None:
            sent["Content-Length"] = str(size_of(content))
        if self._dog.ended:
            raise closed_error(name)
        with contextlib.ExitStack() as stack:
            body: bytes | BinaryIO | None = None
            if isinstance(content, bytes):
                body = content
            elif content is not None:
                body = stack.enter_context(open(content, "rb"))
            try:
                response = self._connections.send(method, url, sent, body)
            except P2UError:
                raise
            except NETWORK as error:
                if self._dog.ended:
                    raise closed_error(name) from None
                raise network_error(error, split_url(url).hostname or "", name) from error
        found = Body(response, self._dog, self._stall_timeout, name)
        data = bytearray()
        try:
            while method != "HEAD" and (piece := found.read(MOST_ANSWER + 1 - len(data))):
                data += piece
        finally:
            found.close()
        return Answer(response.status, response.headers, bytes(data))


class DeferredStore(WritableStore):
    """A writable store that reads over HTTP, and shows new objects together with the manifest.

    Derived classes set ``_http``, which finds the objects.
    """

    _http: AddressedStore

    @property
    def remote(self) -> bool:
        """See `Store.remote`."""
        return True

    @property
    def deferred(self) -> bool:
        """See `WritableStore.deferred`."""
        return True

    @property
    def supports_ranges(self) -> bool:
        """See `Store.supports_ranges`."""
        return self._http.supports_ranges

    @property
    def knows_ranges(self) -> bool:
        """See `Store.knows_ranges`."""
        return self._http.knows_ranges
