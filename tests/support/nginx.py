"""Runs a real nginx on a free loopback port, with a temporary configuration of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

CONFIG = """
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log warn;
worker_processes 2;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    types {{ application/json json; }}
    default_type application/octet-stream;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /noranges/ {{ alias {root}/; max_ranges 0; }}
        location /signed/ {{
            # Like a presigned bucket URL: GET only, and only with the signature.
            limit_except GET {{ deny all; }}
            if ($request_method = HEAD) {{ return 403; }}
            if ($arg_sig != "s3cr3t") {{ return 403; }}
            alias {root}/;
        }}
        # $request_uri, not a rewrite, which would decode the key's special characters.
        location /moved/ {{ if ($request_uri ~ "^/moved(/.*)$") {{ return 302 $1; }} }}
    }}
}}
"""


def find_nginx() -> str | None:
    """Path of the nginx binary; Debian keeps it out of a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Nginx:
    """Serves a folder at ``.url``; also at ``noranges/``, ``signed/?sig=s3cr3t`` and ``moved/``."""

    def __init__(self, root: Path) -> None:
        binary = find_nginx()
        if binary is None:
            raise FileNotFoundError("nginx is not installed (Debian: apt-get install nginx-light)")
        self._work = tempfile.TemporaryDirectory(prefix="p2u-nginx-")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = Path(self._work.name) / "nginx.conf"
        # Workers drop to "nobody", who cannot read a private temporary folder.
        user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(work=self._work.name, root=root, port=port, user=user))
        self._process = subprocess.Popen(
            [binary, "-c", str(config), "-p", self._work.name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._wait_until_up(port)

    def _wait_until_up(self, port: int) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self._process.terminate()
        _, said = self._process.communicate(timeout=10)
        self._work.cleanup()
        raise RuntimeError(f"nginx did not start: {said.decode()}")

    def close(self) -> None:
        """Stop this nginx, by its own pid, and remove its files."""
        self._process.terminate()
        self._process.communicate(timeout=10)
        self._work.cleanup()

    def __enter__(self) -> Nginx:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
