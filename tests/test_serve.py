"""The development server, spoken to byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from store_contract import BLOB, OBJECTS, write_objects

from p2u.errors import NotFoundError, StoreError, UsageError
from p2u.serve import CORS, Server, make_server
from p2u.stores import open_store

DATA = OBJECTS[BLOB]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("serve")
    (top / "secret").write_bytes(b"not for you")
    root = write_objects(top / "package")
    (root / "link").symlink_to("../secret")
    (root / "core.wasm").write_bytes(b"\0asm")
    (root / "page.mjs").write_bytes(b"1")
    (root / "model.json.gz").write_bytes(b"1")
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with make_server(folder, quiet=True) as server:
        yield server


class Answer:
    def __init__(self, url: str, path: str, method: str = "GET", **headers: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        response = connection.getresponse()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        connection.close()


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-299", 100, 299),
        ("bytes=100-", 100, len(DATA) - 1),
        ("bytes=-5", len(DATA) - 5, len(DATA) - 1),
        (f"bytes=10-{len(DATA) + 99}", 10, len(DATA) - 1),
        (f"bytes=-{len(DATA) + 99}", 0, len(DATA) - 1),
    ],
)
def test_ranges(server: Server, asked: str, first: int, last: int) -> None:
    answer = Answer(server.url, f"/{BLOB}", Range=asked)
    assert answer.status == 206
    assert answer.body == DATA[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"
    assert answer.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=99999999999-99999999999"])
def test_ranges_behind_the_end(server: Server, asked: str) -> None:
    answer = Answer(server.url, f"/{BLOB}", Range=asked)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=x-y", "lines=1-2", "bytes=", "0-5"])
def test_other_range_headers_are_ignored(server: Server, asked: str) -> None:
    answer = Answer(server.url, f"/{BLOB}", Range=asked)
    assert (answer.status, answer.body == DATA) == (200, True)


def test_whole_head_and_conditions(server: Server) -> None:
    whole = Answer(server.url, f"/{BLOB}")
    assert whole.status == 200
    assert whole.body == DATA
    assert whole.headers["Accept-Ranges"] == "bytes"
    etag = whole.headers["ETag"]
    assert etag.startswith('"')
    assert whole.headers["Last-Modified"]

    head = Answer(server.url, f"/{BLOB}", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(DATA))

    assert Answer(server.url, f"/{BLOB}", If_None_Match=etag).status == 304
    same = Answer(server.url, f"/{BLOB}", Range="bytes=5-9", If_Range=etag)
    assert (same.status, same.body) == (206, DATA[5:10])
    other = Answer(server.url, f"/{BLOB}", Range="bytes=5-9", If_Range='"other"')
    assert (other.status, other.body == DATA) == (200, True)


def test_cors(server: Server) -> None:
    preflight = Answer(
        server.url, f"/{BLOB}", "OPTIONS", Origin="https://x", Access_Control_Request_Method="GET"
    )
    assert preflight.status == 204
    for answer in (
        preflight,
        Answer(server.url, f"/{BLOB}", Range="bytes=0-1"),
        Answer(server.url, "/absent"),
        Answer(server.url, "/p2u.json", "POST"),
    ):
        for name, value in CORS.items():
            assert answer.headers.get_all(name) == [value]
    assert "Range" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Content-Range" in preflight.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods(server: Server, method: str) -> None:
    answer = Answer(server.url, "/p2u.json", method)
    assert answer.status == 405
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret", "/blobs/../../secret", "/%2e%2e/secret", "/..%2fsecret", "/..%5csecret"),
        *("//etc/passwd", "/%2fetc/passwd", "/./p2u.json", "/link", "/blobs", "/blobs/", "/"),
        *("/p2u.json/", "/p2u.json%00", "/%ff%fe", "/absent", "/" + "x" * 5000, "/a%0ab"),
        *("http://127.0.0.1/../secret", "/%252e%252e/secret"),
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    """Sent raw: a client library would tidy the path up."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split(b"\r\n")[0].split()[1] in (b"404", b"400")
    assert b"not for you" not in answer
    assert b"root:" not in answer


def test_content_types_and_odd_names(server: Server) -> None:
    for path, kind in (
        ("/p2u.json", "application/json"),
        ("/core.wasm", "application/wasm"),
        ("/page.mjs", "text/javascript; charset=utf-8"),
        (f"/{BLOB}", "application/octet-stream"),
        ("/model.json.gz", "application/octet-stream"),
    ):
        answer = Answer(server.url, path)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == kind
        assert "Content-Encoding" not in answer.headers
    for key, data in OBJECTS.items():
        assert Answer(server.url, f"/{quote(key)}").body == data


def test_index_page(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>hello</p>")
    with make_server(tmp_path, quiet=True) as server:
        answer = Answer(server.url, "/")
        assert answer.body == b"<p>hello</p>"
        assert answer.headers["Content-Type"].startswith("text/html")


def test_a_changed_file_gets_another_etag(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with make_server(tmp_path, quiet=True) as server:
        first = Answer(server.url, "/a").headers["ETag"]
        time.sleep(0.02)
        (tmp_path / "a").write_bytes(b"2")
        assert Answer(server.url, "/a").headers["ETag"] != first


def test_sixteen_clients_share_the_rate(folder: Path) -> None:
    size = 20_000
    rate = 16 * size / 0.5
    with make_server(folder, limit_rate=rate, quiet=True) as server:
        stores = [open_store(server.url, stall_timeout=5) for _ in range(16)]
        begun = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            parts = pool.map(lambda store: b"".join(store.stream(BLOB, 7, size)), stores)
            assert set(parts) == {DATA[7 : 7 + size]}
        assert 0.4 <= time.monotonic() - begun < 3
        for store in stores:
            store.close()


def test_shutdown_cuts_slow_transfers_and_frees_the_port(folder: Path) -> None:
    server = make_server(folder, limit_rate=1000, quiet=True).start()
    caught: list[StoreError] = []

    def run() -> None:
        with open_store(server.url, stall_timeout=20) as store:
            try:
                list(store.stream(BLOB, 0, len(DATA)))
            except StoreError as error:
                caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    begun = time.monotonic()
    server.shutdown()
    thread.join(timeout=5)
    assert time.monotonic() - begun < 3
    assert caught
    assert caught[0].retryable
    port = urlsplit(server.url).port
    assert port is not None
    with make_server(folder, port=port, quiet=True) as again:
        assert json.loads(Answer(again.url, "/p2u.json").body) == {"format": 1}


def test_a_port_that_is_taken(server: Server, folder: Path) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    with pytest.raises(UsageError, match=str(port)) as caught:
        make_server(folder, port=port)
    assert "--port" in str(caught.value)
    for bad in (-1, 70000):
        with pytest.raises(UsageError):
            make_server(folder, port=bad)
    with pytest.raises(UsageError):
        make_server(folder, host="no-such-host.invalid")


def test_what_it_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        make_server(tmp_path / "absent")
    with pytest.raises(UsageError):
        make_server(tmp_path, limit_rate=0)


def test_a_server_that_never_ran_can_be_shut_down(folder: Path) -> None:
    make_server(folder).shutdown()


def test_ipv6(folder: Path) -> None:
    try:
        server = make_server(folder, host="::1", quiet=True)
    except UsageError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert Answer(server.url, "/p2u.json").status == 200


def test_the_log_is_plain_text(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also of status codes that Werkzeug colours, and of requests with escape sequences."""
    caplog.set_level("INFO")
    with make_server(folder) as server:
        port = int(server.url.rpartition(":")[2])
        for target in ("/p2u.json", "/no-such", "/\x1b]0;PWNED\x07"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
                while client.recv(65536):
                    pass
    assert "no-such" in caplog.text
    assert "\x1b" not in caplog.text
    assert "\x07" not in caplog.text


def test_requests_are_logged_unless_quiet(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for quiet in (True, False):
        with make_server(folder, quiet=quiet) as server:
            Answer(server.url, "/p2u.json")
        assert ("p2u.json" in caplog.text) is not quiet
