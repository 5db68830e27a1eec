"""A token server for a registry: it signs with a key of its own, made by openssl."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import LoopbackServers

ISSUER, SERVICE = "p2u-tests", "registry"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer(LoopbackServers):
    """Gives tokens to whoever may have them.

    Attributes:
        url: Of the server, the realm.
        certificate: PEM, for the registry.
        logins: ``user:password`` to the actions that the user may get; ``""`` for anonymous ones.
        lifetime: Seconds for which a token is valid.
        given: How many tokens were given.
    """

    def __init__(self, work: Path, logins: dict[str, list[str]]) -> None:
        super().__init__()
        self._key = work / "key.pem"
        certificate = work / "cert.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=p2u", "-keyout", str(self._key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self.certificate = certificate.read_bytes()
        lines = self.certificate.decode().splitlines()
        self._chain = ["".join(lines[1:-1])]
        self.logins = logins
        self.lifetime = 300
        self.given = 0
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def do_GET(self) -> None:
                query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
                header = self.headers.get("Authorization", "")
                login = base64.b64decode(header.removeprefix("Basic ")).decode() if header else ""
                self.reply(login, query)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {k: v[0] for k, v in parse_qs(body).items()}
                self.reply(form["refresh_token"], form)

            def reply(self, login: str, query: dict[str, str]) -> None:
                allowed = tokens.logins.get(login)
                status = 401 if allowed is None else 200
                data = json.dumps({"token": tokens.sign(query, allowed or [])}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.url = f"{self.serve(Handler)}/token"

    def sign(self, query: dict[str, str], allowed: list[str]) -> str:
        """A token for what is asked and allowed."""
        self.given += 1
        kind, name, actions = query["scope"].split(":", 2)
        granted = [action for action in actions.split(",") if action in allowed]
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        claims = {
            "iss": ISSUER,
            "sub": "",
            "aud": query["service"],
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": str(self.given),
            "access": [{"type": kind, "name": name, "actions": granted}],
        }
        signed = f"{_text(json.dumps(head).encode())}.{_text(json.dumps(claims).encode())}"
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=signed.encode(),
            check=True,
            capture_output=True,
        )
        return f"{signed}.{_text(done.stdout)}"
