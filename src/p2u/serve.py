"""A static development server for packages: ranges, CORS, an optional limit on the rate.

For anything but development and demonstrations use a real web server or a bucket: a package is
static files.
"""

from __future__ import annotations

import mimetypes
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from datetime import datetime, timezone
from io import FileIO
from types import TracebackType
from typing import TYPE_CHECKING, Any

from p2u.errors import Cancelled, DiskError, P2UError, UnsupportedError, UsageError
from p2u.stores.base import PIECE
from p2u.stores.local import LocalStore
from p2u.stores.throttle import RateLimiter

try:
    from werkzeug.exceptions import RequestedRangeNotSatisfiable
    from werkzeug.serving import WSGIRequestHandler
    from werkzeug.serving import make_server as make_wsgi_server
    from werkzeug.wrappers import Response
    from werkzeug.wsgi import FileWrapper
except ImportError as error:
    raise UnsupportedError(
        "the development server needs the library Werkzeug",
        hint="Install it: pip install 'p2u-models[serve]', in a clone '.[serve]'; any other web "
        "server works, too",
    ) from error

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Range, If-Range, If-None-Match, If-Modified-Since",
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Length, Content-Range, ETag, Last-Modified"
    ),
    "Access-Control-Max-Age": "86400",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

#: Missing or wrong in some systems' tables; a browser insists on them.
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
}

#: Any other Range header (several ranges, other units) is ignored, as RFC 9110 allows.
_ONE_RANGE = re.compile(r"bytes=\s*(\d{1,19}\s*-\s*\d{0,19}|-\s*\d{1,19})\s*", re.ASCII)


class Answers:
    """Counts of answers. Thread-safe.

    Attributes:
        bytes: Of bodies.
        requests: By status.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.requests: Counter[int] = Counter()
        self._lock = threading.Lock()

    def answer(self, status: int) -> None:
        """An answer was begun."""
        with self._lock:
            self.requests[status] += 1

    def body(self, count: int) -> None:
        """``count`` bytes more were handed to the client's connection."""
        with self._lock:
            self.bytes += count


class FolderApp:
    """The WSGI application: the files below a folder.

    Args:
        root: The folder; symbolic links that lead out of it are not followed.
        limiter: Shared by all responses.

    Attributes:
        answers: Counts what was answered.
    """

    def __init__(self, root: str | os.PathLike[str], limiter: RateLimiter | None = None) -> None:
        self._store = LocalStore(root)
        self.limiter = limiter
        self.answers = Answers()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as WSGI says."""
        response = self._respond(environ)
        self.answers.answer(response.status_code)
        response.headers.update(CORS)
        pieces = response(environ, start_response)
        if environ["REQUEST_METHOD"] != "GET":
            return pieces
        return _passed_on(pieces, self.limiter, self.answers)

    def _respond(self, environ: WSGIEnvironment) -> Response:
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return Response(status=204)
        if method not in ("GET", "HEAD"):
            return _plain(405, "only GET, HEAD and OPTIONS", {"Allow": "GET, HEAD, OPTIONS"})
        try:
            # WSGI hands the path's bytes over as Latin-1.
            path = environ["PATH_INFO"].encode("latin-1").decode()
            key = path.removeprefix("/")
            if not key or key.endswith("/"):
                key += "index.html"
            file = self._store.open(key)
        except DiskError:
            return _plain(403, "not readable")
        except (P2UError, UnicodeError):
            # The answer for a hostile path, and for a publisher's lock, is that nothing is there.
            return _plain(404, "not found")
        return _file_response(file, key, environ)


def _file_response(file: FileIO, key: str, environ: WSGIEnvironment) -> Response:
    """200, 206, 304 or 416 for an open file, which the response closes."""
    status = os.fstat(file.fileno())
    response = Response(FileWrapper(file, PIECE), direct_passthrough=True)
    response.mimetype = _media_type(key)
    response.content_length = status.st_size
    response.accept_ranges = "bytes"
    response.last_modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    response.set_etag(f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}")
    response.headers["Cache-Control"] = "no-cache"
    try:
        response.make_conditional(
            _with_plain_range(environ, status.st_size),
            accept_ranges=True,
            complete_length=status.st_size,
        )
    except RequestedRangeNotSatisfiable:
        response.close()
        return _plain(
            416, "beyond the end of the file", {"Content-Range": f"bytes */{status.st_size}"}
        )
    return response


def _with_plain_range(environ: WSGIEnvironment, size: int) -> WSGIEnvironment:
    """The environ with a Range header that Werkzeug understands as RFC 9110 means it, or none."""
    asked = environ.get("HTTP_RANGE")
    if asked is None:
        return environ
    environ = dict(environ)
    if not _ONE_RANGE.fullmatch(asked):
        del environ["HTTP_RANGE"]
    elif suffix := re.fullmatch(r"bytes=\s*-\s*(\d+)\s*", asked):
        # Werkzeug refuses a suffix that is longer than the file.
        environ["HTTP_RANGE"] = f"bytes=-{min(int(suffix[1]), size)}"
    return environ


def _media_type(key: str) -> str:
    suffix = os.path.splitext(key)[1].lower()  # noqa: PTH122 - a key is not a path
    kind, encoding = mimetypes.guess_type(key)
    if encoding or not kind:
        kind = "application/octet-stream"
    return _TYPES.get(suffix, kind)


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(f"{text}\n", status=status, headers=headers, mimetype="text/plain")


def _passed_on(
    pieces: Iterable[bytes], limiter: RateLimiter | None, answers: Answers
) -> Generator[bytes, None, None]:
    """The pieces, as fast as the limiter allows; ends early when the server shuts down.

    Closes ``pieces`` in any case: Werkzeug forgets to when a client resets its connection.
    """
    try:
        for piece in pieces:
            if limiter is None:
                answers.body(len(piece))
                yield piece
                continue
            for at in range(0, len(piece), limiter.grant):
                part = piece[at : at + limiter.grant]
                limiter.acquire(len(part))
                answers.body(len(part))
                yield part
    except Cancelled:
        return
    finally:
        close: Callable[[], object] | None = getattr(pieces, "close", None)
        if close is not None:
            close()


class _Handler(WSGIRequestHandler):
    #: Seconds: a client that says or takes nothing for so long is dropped.
    timeout = 60
    #: Header and body are sent apart: a short body must not wait for the header's receipt.
    disable_nagle_algorithm = True

    def version_string(self) -> str:
        return "p2u"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log a request in plain characters: logs are files, and clients are strangers."""
        line = self.requestline.encode("unicode_escape").decode("ascii")
        self.log("info", '"%s" %s %s', line, int(code) if isinstance(code, int) else code, size)


class _QuietHandler(_Handler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        return


class Server:
    """A server that is bound to its port already; as a context manager it serves in a thread.

    Attributes:
        url: Of the folder, without a slash at the end.
        answers: Counts what was answered.
    """

    def __init__(self, app: FolderApp, host: str, port: int, quiet: bool) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            # Bound here and not by Werkzeug, which ends the process when the port is taken.
            with socket.create_server((host, port), family=family, backlog=128) as listener:
                self._server = make_wsgi_server(
                    host,
                    listener.getsockname()[1],
                    app,
                    threaded=True,
                    request_handler=_QuietHandler if quiet else _Handler,
                    fd=listener.fileno(),
                )
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"cannot listen on {host}, port {port} ({reason})",
                hint="Choose another --port or --host; port 0 takes a free one",
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.port}"
        self._app = app
        self.answers = app.answers
        self._thread: threading.Thread | None = None
        self._started = False

    def serve_forever(self) -> None:
        """Serve until `shutdown` is called, or Ctrl-C."""
        self._started = True
        self._server.serve_forever(poll_interval=0.1)

    def start(self) -> Server:
        """Serve in a daemon thread."""
        self._started = True
        self._thread = threading.Thread(target=self.serve_forever, name="p2u-serve", daemon=True)
        self._thread.start()
        return self

    def shutdown(self) -> None:
        """Stop serving and free the port; transfers under a rate limit are cut off."""
        if self._app.limiter is not None:
            self._app.limiter.cancel()
        if self._started:
            self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


def make_server(
    root: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limit_rate: float | None = None,
    quiet: bool = False,
) -> Server:
    """Bind a server for the files below a folder; it answers once `Server.serve_forever` runs.

    Args:
        root: The folder (or its ``p2u.json``).
        host: Address to listen on.
        port: 0 takes a free one, see `Server.url`.
        limit_rate: Bytes per second, over all clients together.
        quiet: Do not log requests to stderr.

    Raises:
        NotFoundError: There is no such folder.
        UsageError: The port is taken or not allowed; the rate is not positive.
    """
    limiter = None if limit_rate is None else RateLimiter(limit_rate)
    return Server(FolderApp(root, limiter), host, port, quiet)
