"""The HTTP store: read objects from any web server or bucket, with GET and Range."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Generator
from http.client import HTTPException

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError
from urllib3.exceptions import ProxyError as Urllib3ProxyError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from p2u.disk.errors import OPEN_FILES
from p2u.errors import P2UError, StoreError, UsageError
from p2u.one_process import OneProcess
from p2u.package.paths import MANIFEST_KEY, check_path
from p2u.stores.base import (
    PIECE,
    Store,
    StoreOptions,
    check_range,
    closed_error,
    too_large,
    too_short,
)
from p2u.stores.http.connection import Connections
from p2u.stores.http.headers import (
    CONDITIONS,
    ContentRange,
    Mark,
    check_encoding,
    check_page,
    content_length,
    status_error,
)
from p2u.stores.http.urls import BaseUrl, origin, redirect_target, split_url
from p2u.stores.http.watchdog import Watchdog

#: Fewer bytes than this within `stall_timeout` seconds of waiting is a stall.
STALL_BYTES = 4096
MAX_REDIRECTS = 10

#: Left-over bytes that are cheaper to read than a new connection.
_WORTH_DRAINING = 64 << 10
#: Bytes of a body by which a web page is known.
LEAD = 512
#: Failures of TLS that a network causes, and not a server's or our own settings.
_PASSING_TLS = re.compile(r"EOF|timed out|reset|BAD_RECORD_MAC|DECRYPTION_FAILED", re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Errors of the network and of urllib3. ValueError: e.g. a header that cannot be encoded.
NETWORK = (HTTPError, HTTPException, OSError, ValueError)


class HttpStore(Store, OneProcess):
    """Keys below a URL. Only GET is used: presigned URLs reject HEAD.

    Args:
        url: A folder or its ``p2u.json``; its query is sent with each key, ``user:password@`` as
            basic authentication. Neither ever appears in a message.
        options: ``stall_timeout`` is how long to wait for a response's header, and in which time at
            least `STALL_BYTES` bytes of a body must come. Only waiting counts, not the time between
            two pieces. ``headers`` are not sent to where the host redirects.

    Raises:
        UsageError: ``url`` is not valid.
    """

    def __init__(self, url: str, options: StoreOptions) -> None:
        self._base = BaseUrl.parse(url)
        self.url = self._base.display
        self._stall_timeout = options.stall_timeout
        self._private = dict(options.headers or {})
        if self._base.credentials:
            self._private.setdefault("Authorization", self._base.credentials)
        self._origin = origin(self._base.request_url(MANIFEST_KEY))
        self._dog = Watchdog()
        self._connections = Connections(self._dog, options.connect_timeout, options.stall_timeout)
        self._ranges = True
        self._announced = False
        self.register_forks()

    def after_fork(self, *, child: bool) -> None:
        """See `OneProcess.after_fork`: a child opens connections of its own."""
        if child:
            self._dog.fork()
            self._connections.fork()

    @property
    def remote(self) -> bool:
        """See `Store.remote`."""
        return True

    @property
    def supports_ranges(self) -> bool:
        """See `Store.supports_ranges`."""
        return self._ranges

    @property
    def knows_ranges(self) -> bool:
        """See `Store.knows_ranges`."""
        return self._announced or not self._ranges

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        return self._whole(self._get(key, {}), limit)

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`; asks unless it is the same (If-None-Match, If-Modified-Since)."""
        seen = Mark.parse(mark)
        # Caches on the way are to ask the server, too.
        body = self._get(key, {"Cache-Control": "no-cache", **seen.conditions()})
        if body.response.status == 304:
            body.discard()
            return None, mark
        data = self._whole(body, limit)
        now = Mark.of(data, body.response.headers)
        return (None if now.sha256 == seen.sha256 else data), now.text()

    def _whole(self, body: Body, limit: int) -> bytes:
        """All of a body that is not to be larger than ``limit``."""
        try:
            if body.size is not None and body.size > limit:
                raise too_large(body.name, limit, body.size)
            data = bytearray()
            while piece := body.read(limit + 1 - len(data)):
                data += piece
                if len(data) > limit:
                    raise too_large(body.name, limit)
            check_page(body.response.headers, bytes(data[:LEAD]), body.name)
            if body.response.headers.get("Accept-Ranges", "").strip().lower() == "bytes":
                self._announced = True
            return bytes(data)
        finally:
            body.close()

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        check_path(key, "key")
        check_range(start, length)
        return self._stream(key, start, length)

    def _stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        end = start + length
        # A server may answer with the beginning of a range only: then the rest is asked for.
        while start < end:
            body, have = self._open_range(key, start, end)
            try:
                while have:
                    piece = body.read(min(have, PIECE))
                    if not piece:
                        raise body.cut_off(have)
                    have -= len(piece)
                    start += len(piece)
                    yield piece
            finally:
                body.close()

    def close(self) -> None:
        """End all transfers, also those that wait in other threads, and close the connections."""
        self._dog.end_all()
        self._connections.close()

    def _open_range(self, key: str, start: int, end: int) -> tuple[Body, int]:
        """A body that stands at byte ``start``, and how many bytes it has of the range."""
        # Never If-Range: the servers of one package may have different ETags for the same bytes,
        # and the digests of chunks say whether they are the right ones.
        headers = {"Range": f"bytes={start}-{end - 1}"} if self._ranges else {}
        body = self._get(key, headers)
        try:
            if body.response.status == 206:
                return body, self._check_partial(body, start, end)
            self._check_whole(body, start, end)
            body.skip(start)
            return body, end - start
        except BaseException:
            body.close()
            raise

    def _check_partial(self, body: Body, start: int, end: int) -> int:
        """Check the Content-Range of a 206 and return how many bytes of the range it has."""
        header = body.response.headers.get("Content-Range")
        found = ContentRange.parse(header)
        if found is None or found.first != start or not start <= (found.last or 0) < end:
            if found and found.size is not None and found.size < end:
                raise too_short(body.name, found.size, start, end - start)
            raise StoreError(
                f"asked for bytes {start}-{end - 1}, the server sent {header!a}"[:200],
                file=body.name,
                hint="The server or a proxy before it handles ranges wrongly",
                # Without any framing the header itself was cut off on the way.
                retryable=header is None and body.size is None and not body.chunked,
            )
        have = (found.last or 0) + 1 - start
        if found.size is not None and found.size < end:
            raise too_short(body.name, found.size, start, end - start)
        if body.size not in (None, have):
            raise StoreError(
                f"asked for {have} bytes, but the server announced {body.size}",
                file=body.name,
                hint="The server or a proxy before it handles ranges wrongly",
            )
        return have

    def _check_whole(self, body: Body, start: int, end: int) -> None:
        """A 200: either ranges are ignored, or it is all of the object."""
        check_page(body.response.headers, body.peek(), body.name)
        if body.size is not None and body.size < end:
            raise too_short(body.name, body.size, start, end - start)
        if start != 0 or body.size != end:
            self._ranges = False

    def _get(self, key: str, headers: dict[str, str]) -> Body:
        """Send a GET, follow redirects; the response has status 200 or 206 and identity bytes.

        Or status 304, where the headers make it conditional.
        """
        url = self._base.request_url(key)
        name = self._base.display_url(key)
        for _ in range(MAX_REDIRECTS + 1):
            body = self._send(url, headers, name)
            status = body.response.status
            if status == 304 and headers.keys() & CONDITIONS:
                return body
            if status == 200 or (status == 206 and "Range" in headers):
                try:
                    check_encoding(body.response.headers, name)
                except StoreError:
                    body.close()
                    raise
                return body
            body.discard()
            if status not in _REDIRECTS:
                error = status_error(status, body.response.reason, body.response.headers, name)
                error.status = status
                raise error
            url = redirect_target(url, body.response.headers.get("Location"), name)
        raise StoreError(
            f"was redirected more than {MAX_REDIRECTS} times",
            file=name,
            hint="Check the URL and the server",
        )

    def _send(self, url: str, headers: dict[str, str], name: str) -> Body:
        # Identity: compressed ranges would be ranges of the compressed bytes.
        sent = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "p2u", **headers}
        if origin(url) == self._origin:
            sent = {**self._private, **sent}
        if self._dog.ended:
            raise closed_error(name)
        try:
            response = self._connections.get(url, sent)
        except P2UError:  # the proxy setting
            raise
        except NETWORK as error:
            if self._dog.ended:
                raise closed_error(name) from None
            raise network_error(error, split_url(url).hostname or "", name) from error
        return Body(response, self._dog, self._stall_timeout, name)


class Body:
    """The body of one response, read piece by piece, under watch.

    Attributes:
        response: urllib3's.
        name: URL for messages.
        size: What Content-Length says.
    """

    def __init__(
        self, response: BaseHTTPResponse, dog: Watchdog, stall_timeout: float, name: str
    ) -> None:
        self.response = response
        self.name = name
        self.chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        self.size = None if self.chunked else content_length(response.headers)
        self._dog = dog
        self._limit = stall_timeout
        self._received = 0
        self._ahead = b""
        self._waited = 0.0
        self._window = 0

    def read(self, most: int) -> bytes:
        """At least one and up to ``most`` bytes; none at the end of the body.

        Raises:
            StoreError: Retryable: the connection broke or stalled. Not: the store was closed.
        """
        if self._ahead:
            piece, self._ahead = self._ahead[:most], self._ahead[most:]
            return piece
        begun = time.monotonic()
        try:
            with self._dog.watch(self._limit, self.response.shutdown) as watch:
                # read1: what there is. read would wait for all, however slowly it drips.
                piece = self.response.read1(min(most, PIECE), decode_content=False) or b""
        except NETWORK as error:
            self.close()
            if self._dog.ended:
                raise closed_error(self.name) from None
            if watch.fired:
                raise self._stalled() from error
            raise network_error(error, "the server", self.name) from error
        if watch.fired:
            self.close()
            raise closed_error(self.name) if self._dog.ended else self._stalled()
        self._received += len(piece)
        self._check_pace(len(piece), time.monotonic() - begun)
        return piece

    def peek(self) -> bytes:
        """The first bytes, some of them, which `read` returns again. Before all other calls."""
        self._ahead = self.read(LEAD)
        return self._ahead

    def skip(self, count: int) -> None:
        """Read and drop ``count`` bytes."""
        while count:
            piece = self.read(count)
            if not piece:
                raise self.cut_off(count)
            count -= len(piece)

    def discard(self) -> None:
        """Drop the rest: read it if it is short and announced, so that the connection lives on."""
        if self.size is not None and self.size <= _WORTH_DRAINING:
            try:
                while self.read(_WORTH_DRAINING):
                    pass
            except StoreError:
                return
        self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self.size is None or self._received < self.size:
            # Also ends a chunked body whose last, empty chunk was not read.
            self.response.close()
        self.response.release_conn()

    def cut_off(self, missing: int) -> StoreError:
        """The error for a body that ended too early."""
        return StoreError(
            f"the connection ended {missing} bytes too early",
            file=self.name,
            hint="Check the network; what has arrived is kept",
            retryable=True,
        )

    def _check_pace(self, count: int, seconds: float) -> None:
        self._waited += seconds
        self._window += count
        if self._waited >= self._limit:
            if self._window < STALL_BYTES and count:
                self.close()
                raise self._stalled()
            self._waited, self._window = 0.0, 0

    def _stalled(self) -> StoreError:
        return StoreError(
            f"the server sent fewer than {STALL_BYTES} bytes in {self._limit:g} s",
            file=self.name,
            hint="The server or the network is too slow; try again later",
            retryable=True,
        )


def _reason(error: Exception) -> str:
    """What OpenSSL says, without the place in its source."""
    found = re.search(r"\[SSL: (\w+)\]", str(error))
    return found[1].lower().replace("_", " ") if found else str(error)[:200]


def network_error(error: Exception, host: str, name: str) -> StoreError:
    """Our error for one of urllib3, http.client or the socket. ``host`` is for the message."""
    cause = error
    while isinstance(cause, Urllib3ProxyError) and isinstance(cause.original_error, Exception):
        cause = cause.original_error
    if isinstance(cause, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(cause):
        return StoreError(
            f"the TLS certificate of {host} could not be verified",
            file=name,
            hint="Check the clock and the URL; set SSL_CERT_FILE for a private authority",
        )
    if isinstance(cause, SSLError) and not _PASSING_TLS.search(str(cause)):
        plain = "WRONG_VERSION_NUMBER" in str(cause) or "HTTP_REQUEST" in str(cause)
        return StoreError(
            f"no secure connection to {host}: {_reason(cause)}",
            file=name,
            hint="It does not seem to speak TLS on this port; is it http://?"
            if plain
            else "Check the URL, and the server's TLS settings",
        )
    if isinstance(cause, ValueError) and not isinstance(cause, (HTTPError, OSError)):
        raise UsageError("a URL or header is not valid", file=name) from error
    if isinstance(cause, NameResolutionError):
        what = f"the name {host} could not be resolved"
    elif isinstance(cause, (Urllib3TimeoutError, TimeoutError)) and "refused" not in str(cause):
        what = f"{host} did not answer in time"
    elif "refused" in str(cause):
        what = f"{host} refused the connection"
    else:
        what = f"the connection to {host} broke ({type(cause).__name__})"
    via = " (through a proxy)" if isinstance(error, Urllib3ProxyError) else ""
    hint = "Check the network and the URL"
    if any(os.strerror(code) in str(cause) for code in (errno.EMFILE, errno.ENFILE)):
        what, hint = "no connection: too many files are open", OPEN_FILES
    return StoreError(what + via, file=name, hint=hint, retryable=True)
