"""A stand-in for an engine's HTTP server that notes the calls."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler


class Noting(BaseHTTPRequestHandler):
    """Notes path and body of each POST in the server's ``calls``, fails for those in ``broken``.

    For `loopback.LoopbackServers`.
    """

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.calls.append((self.path, json.loads(body) if body else None))  # type: ignore[attr-defined]
        self._answer(500 if self.path in self.server.broken else 200)  # type: ignore[attr-defined]

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""
