"""Serves HTTP on loopback and misbehaves on purpose: ``{url}/{fault}/{anything}``."""

from __future__ import annotations

import os
import random
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType

#: The object at every path.
DATA = random.Random(7).randbytes(300_000)
#: Seconds between two bytes of the dripping faults, and for how long they go on.
DRIP = 0.1
DRIP_FOR = 8.0


@dataclass
class Request:
    """One request as it came, and the connection to answer on."""

    path: str
    headers: dict[str, str]
    connection: socket.socket = field(repr=False)
    server: FaultServer = field(repr=False)
    count: int

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def head(self, status: str, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def range(self) -> tuple[int, int]:
        """First and last byte asked for, or all."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if match is None:
            return 0, len(DATA) - 1
        return int(match[1]), min(int(match[2]), len(DATA) - 1)

    def partial(self, **headers: object) -> None:
        """A correct answer, 206 or 200, with more headers."""
        first, last = self.range()
        body = DATA[first : last + 1]
        if "range" in self.headers:
            headers["Content_Range"] = f"bytes {first}-{last}/{len(DATA)}"
        status = "206 Partial Content" if "range" in self.headers else "200 OK"
        self.head(status, Content_Length=len(body), **headers)
        self.send(body)

    def drip(self, data: bytes) -> None:
        """Send byte by byte, slowly."""
        end = time.monotonic() + DRIP_FOR
        for at in range(len(data)):
            if self.server.stopping.wait(DRIP) or time.monotonic() > end:
                break
            self.send(data[at : at + 1])

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())  # close() would wait for the reading side's file


Fault = Callable[[Request], object]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__.replace("_", "-")] = function  # type: ignore[attr-defined]
    return function


@fault
def good(request: Request) -> None:
    request.partial(ETag='"1"')


@fault
def plain(request: Request) -> None:
    request.partial()


@fault
def wrong_content_range(request: Request) -> None:
    first, last = request.range()
    body = DATA[first : last + 1]
    where = f"bytes {first + 7}-{last + 7}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=len(body), Content_Range=where)
    request.send(body)


@fault
def absurd_content_range(request: Request) -> None:
    request.head("206 Partial Content", Content_Length=3, Content_Range="bytes 9-1/" + "9" * 400)
    request.send(b"abc")


@fault
def no_content_range(request: Request) -> None:
    first, last = request.range()
    request.head("206 Partial Content", Content_Length=last + 1 - first)
    request.send(DATA[first : last + 1])


@fault
def cut_header(request: Request) -> None:
    request.send(b"HTTP/1.1 206 Partial Content\r\nServer: x\r\n")
    request.connection.shutdown(socket.SHUT_RDWR)


@fault
def multipart(request: Request) -> None:
    kind = "multipart/byteranges; boundary=x"
    request.head("206 Partial Content", Content_Length=5, Content_Type=kind)
    request.send(b"--x--")


@fault
def longer_range(request: Request) -> None:
    request.head(
        "206 Partial Content", Content_Length=300, Content_Range=f"bytes 0-299/{len(DATA)}"
    )
    request.send(DATA[:300])


@fault
def announced_too_much(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=last + 51 - first, Content_Range=where)
    request.send(DATA[first : last + 1] + b"x" * 50)


@fault
def extra_body(request: Request) -> None:
    request.partial()
    request.send(b"more bytes than announced")


@fault
def closes_silently(request: Request) -> None:
    """Keep-alive by its header, but the connection is closed after each answer."""
    request.partial()
    request.connection.shutdown(socket.SHUT_RDWR)


@fault
def short_body(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.send(DATA[first : (first + last) // 2])
    request.connection.shutdown(socket.SHUT_RDWR)


@fault
def short_whole(request: Request) -> None:
    """No Content-Length: only the number of bytes can show that some are missing."""
    request.head("200 OK", Connection="close")
    request.send(DATA[:1500])
    request.connection.shutdown(socket.SHUT_RDWR)


@fault
def reset(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.send(DATA[first : (first + last) // 2])
    time.sleep(0.05)
    request.reset()


@fault
def reset_at_once(request: Request) -> None:
    request.reset()


@fault
def garbage(request: Request) -> None:
    request.send(b"SSH-2.0-OpenSSH_9.2\r\n")
    request.connection.shutdown(socket.SHUT_RDWR)


@fault
def endless_headers(request: Request) -> None:
    request.send(b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 5000)


@fault
def long_header(request: Request) -> None:
    request.send(b"HTTP/1.1 206 Partial Content\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")


@fault
def capped(request: Request) -> None:
    """At most 1000 bytes an answer, which RFC 9110 allows."""
    first, last = request.range()
    last = min(last, first + 999)
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.send(DATA[first : last + 1])


@fault
def unknown_size(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/*"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.send(DATA[first : last + 1])


@fault
def chunked(request: Request) -> None:
    first, last = request.range()
    body = DATA[first : last + 1]
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Transfer_Encoding="chunked", Content_Range=where)
    for at in range(0, len(body), 999):
        part = body[at : at + 999]
        request.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    request.send(b"0\r\n\r\n")


@fault
def bad_chunks(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Transfer_Encoding="chunked", Content_Range=where)
    request.send(b"zzz\r\nabc\r\n")


@fault
def ignores_range(request: Request) -> None:
    request.head("200 OK", Content_Length=len(DATA), ETag='"1"')
    request.send(DATA)


@fault
def ignores_range_http10(request: Request) -> None:
    request.send(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)
    request.connection.shutdown(socket.SHUT_RDWR)


@fault
def not_satisfiable(request: Request) -> None:
    request.head("416 Range Not Satisfiable", Content_Range="bytes */77", Content_Length=0)


@fault
def retry_seconds(request: Request) -> None:
    request.head("429 Too Many Requests", Retry_After=3, Content_Length=0)


@fault
def retry_date(request: Request) -> None:
    when = formatdate(time.time() + 30, usegmt=True)
    request.head("503 Service Unavailable", Retry_After=when, Content_Length=0)


@fault
def retry_nonsense(request: Request) -> None:
    request.head("503 Service Unavailable", Retry_After="-9e99 bottles", Content_Length=0)


@fault
def big_error_page(request: Request) -> None:
    request.head("404 Not Found", Content_Length=1 << 40)
    request.drip(b"x" * 1000)


@fault
def redirect(request: Request) -> None:
    request.head("302 Found", Location="/good/object", Content_Length=0)


@fault
def redirect_loop(request: Request) -> None:
    request.head("307 Temporary Redirect", Location=request.path, Content_Length=0)


@fault
def redirect_nowhere(request: Request) -> None:
    request.head("302 Found", Content_Length=0)


@fault
def redirect_to_file(request: Request) -> None:
    request.head("302 Found", Location="file:///etc/passwd?secret=1", Content_Length=0)


@fault
def redirect_to_nonsense(request: Request) -> None:
    request.head("302 Found", Location="http://[::1", Content_Length=0)


@fault
def redirect_away(request: Request) -> None:
    """To ``server.other``, another origin."""
    url = f"{request.server.other}/good/moved%20object?token=t0ken"
    request.head("302 Found", Location=url, Content_Length=0)


@fault
def redirect_to_404(request: Request) -> None:
    request.head("302 Found", Location="/status-404/x?token=t0ken", Content_Length=0)


@fault
def etag_changes(request: Request) -> None:
    request.partial(ETag=f'"{request.count}"')


@fault
def etag_changes_politely(request: Request) -> None:
    """Honours If-Range: the whole new object, as the RFC says."""
    etag = f'"{request.count}"'
    if request.headers.get("if-range", etag) != etag:
        del request.headers["range"]
    request.partial(ETag=etag)


@fault
def weak_etag(request: Request) -> None:
    request.partial(ETag=f'W/"{(request.count - 1) // 2}"')


@fault
def etag_becomes_strong(request: Request) -> None:
    """As Apache does when a file is more than a second old."""
    request.partial(ETag='W/"1"' if request.count == 1 else '"1"')


PAGE = b"\n  <!DOCTYPE HTML>\n<html><body>Please log in</body></html>"


@fault
def login_page(request: Request) -> None:
    """As a captive portal answers everything."""
    request.head("200 OK", Content_Type="text/html; charset=utf-8", Content_Length=len(PAGE))
    request.send(PAGE)


@fault
def login_page_as_bytes(request: Request) -> None:
    request.head("200 OK", Content_Length=len(PAGE))
    request.send(PAGE)


@fault
def redirect_to_login(request: Request) -> None:
    request.head("302 Found", Location="/login-page/object", Content_Length=0)


@fault
def wrong_type(request: Request) -> None:
    """The file itself, with the type that some servers give to all they do not know."""
    request.partial(Content_Type="text/html")


@fault
def size_changes(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA) + request.count}"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.send(DATA[first : last + 1])


@fault
def gzip(request: Request) -> None:
    request.partial(Content_Encoding="gzip")


@fault
def drip_body(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.drip(DATA[first : last + 1])


@fault
def drip_header(request: Request) -> None:
    request.drip(b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 90)


@fault
def drip_chunk_size(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Transfer_Encoding="chunked", Content_Range=where)
    request.drip(b"0" * 1000)


@fault
def silent(request: Request) -> None:
    request.server.stopping.wait(DRIP_FOR)


@fault
def stops_mid_body(request: Request) -> None:
    first, last = request.range()
    where = f"bytes {first}-{last}/{len(DATA)}"
    request.head("206 Partial Content", Content_Length=last + 1 - first, Content_Range=where)
    request.send(DATA[first : first + 100])
    request.server.stopping.wait(DRIP_FOR)


class FaultServer:
    """Runs in threads; ``.requests`` are all that came.

    Args:
        context: Serve TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.other = ""
        self.stopping = threading.Event()
        self.connections = 0
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                outer.connections += 1
                try:
                    if context is not None:
                        self.request = context.wrap_socket(self.request, server_side=True)
                        self.rfile = self.request.makefile("rb")
                    while request := outer._receive(self.rfile.readline, self.request):
                        outer._answer(request)
                except (OSError, ValueError):
                    return  # the client went away

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        port = self._server.server_address[1]
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def _receive(self, readline: Callable[[], bytes], connection: socket.socket) -> Request | None:
        line = readline().decode("latin-1").split()
        if len(line) != 3:
            return None
        headers = {}
        while (header := readline().decode("latin-1").strip()) and ":" in header:
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        path = line[1]
        count = 1 + sum(1 for request in self.requests if request.path == path)
        request = Request(path, headers, connection, self, count)
        if line[0] != "GET":
            request.head("403 Forbidden", Content_Length=0)
            return None
        self.requests.append(request)
        return request

    def _answer(self, request: Request) -> None:
        name = re.sub(r"^http://[^/]+", "", request.path).split("/")[1].split("?")[0]
        if name.startswith("status-"):
            body = b"<html>an error page</html>"
            request.head(f"{name[7:]} Some \xa7 Reason", Content_Length=len(body))
            request.send(body)
        else:
            FAULTS[name](request)

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
