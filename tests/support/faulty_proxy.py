"""A proxy in front of a real server that spoils some of its answers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from loopback import LoopbackServers

#: Headers between two neighbours only.
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


@dataclass(frozen=True)
class Request:
    """A request on its way.

    Attributes:
        path: Without percent-encoding, which differs from client to client.
        number: How many there were before, of all.
    """

    method: str
    path: str
    number: int


#: ``"cut"``, ``"flip"``, a status, a status with a body, or None.
Fault = int | str | tuple[int, bytes] | None


class FaultyProxy(LoopbackServers):
    """The proxy.

    Attributes:
        url: ``http://127.0.0.1:port``.
        fault: Asked for each request.
        faults: How many answers were spoiled.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.upstream = urlsplit(upstream).netloc
        self.fault: Callable[[Request], Fault] = lambda request: None
        self.faults = 0
        self.requests = 0
        self.lock = threading.Lock()
        self.url = self.serve(_Handler, proxy=self)

    def ask(self, method: str, path: str) -> Fault:
        """The fault of a request."""
        with self.lock:
            found = self.fault(Request(method, unquote(path), self.requests))
            self.requests += 1
            self.faults += found is not None
            return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def forward(self) -> None:
        proxy: FaultyProxy = self.server.proxy  # type: ignore[attr-defined]
        body = self.body()
        fault = proxy.ask(self.command, self.path)
        if isinstance(fault, int):
            fault = (fault, b"spoiled on purpose")
        if isinstance(fault, tuple):
            self.reply(fault[0], [], fault[1])
            return
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP | {"content-length", "expect"}:
                    upstream.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            data = answer.read()
            self.reply(answer.status, answer.getheaders(), data, fault)
        finally:
            upstream.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(
        self, status: int, headers: list[tuple[str, str]], data: bytes, fault: Fault = None
    ) -> None:
        self.send_response(status)
        length = None
        for name, value in headers:
            if name.lower() == "content-length":
                length = value
            elif name.lower() not in _HOP | {"date", "server"}:
                self.send_header(name, value)
        keep = self.command == "HEAD" and length is not None
        self.send_header("Content-Length", str(length) if keep else str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "flip" and data:
            at = len(data) // 2
            data = data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :]
        if fault == "cut" and len(data) > 1:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = forward  # noqa: N815
