"""TLS, proxies, URLs and headers."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from fault_server import DATA, FaultServer
from urllib3.exceptions import NewConnectionError, SSLError

from p2u.errors import FormatError, StoreError, UnsupportedError, UsageError
from p2u.stores import LocalStore, open_store
from p2u.stores.http.connection import proxy_for
from p2u.stores.http.headers import (
    MAX_RETRY_AFTER,
    ContentRange,
    content_length,
    parse_retry_after,
)
from p2u.stores.http.store import HttpStore, network_error
from p2u.stores.http.urls import BaseUrl, redirect_target

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_VARIABLES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one PEM file, for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed (it makes a certificate)")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "crt.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    both = (folder / "key.pem").read_text() + (folder / "crt.pem").read_text()
    (folder / "both.pem").write_text(both)
    return folder / "both.pem"


@pytest.fixture(scope="module")
def tls_server(certificate: Path) -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultServer(context) as server:
        yield server


def test_tls_with_a_known_authority(
    tls_server: FaultServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with open_store(f"{tls_server.url}/good", stall_timeout=5) as store:
        assert b"".join(store.stream("object", 7, 200_000)) == DATA[7:200_007]


@pytest.mark.parametrize(
    "name", ["drip-header", "drip-body", "drip-chunk-size", "stops-mid-body", "short-body", "reset"]
)
def test_tls_faults(
    tls_server: FaultServer, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        open_store(
            f"{tls_server.url}/{name}", stall_timeout=10 if name in ("short-body", "reset") else 0.3
        ) as store,
        pytest.raises(StoreError) as caught,
    ):
        list(store.stream("object", 0, 10_000))
    assert caught.value.retryable


def test_tls_with_an_unknown_authority(tls_server: FaultServer) -> None:
    with open_store(f"{tls_server.url}/good") as store, pytest.raises(StoreError) as caught:
        store.read("object", limit=len(DATA))
    assert not caught.value.retryable
    assert "certificate" in str(caught.value)
    assert "SSL_CERT_FILE" in str(caught.value)


def test_authorities_that_cannot_be_read(
    tls_server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nonsense").write_text("no certificate")
    for name in ("absent", "nonsense"):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / name))
        with open_store(f"{tls_server.url}/good") as store, pytest.raises(UsageError) as caught:
            store.read("object", limit=len(DATA))
        assert "REQUESTS_CA_BUNDLE" in str(caught.value)


def test_http_spoken_on_a_tls_port_and_the_other_way_round(tls_server: FaultServer) -> None:
    with FaultServer() as plain:
        for url in (tls_server.url.replace("https", "http"), plain.url.replace("http", "https")):
            with open_store(f"{url}/good", stall_timeout=1) as store, pytest.raises(StoreError):
                store.read("object", limit=len(DATA))


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", True),
        ("The read operation timed out", True),
        ("[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed", True),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1000)", False),
        ("[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol", False),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version", False),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure", False),
    ],
)
def test_failures_of_tls_that_may_pass(text: str, passes: bool) -> None:
    error = network_error(SSLError(ssl.SSLError(1, text)), "h", "https://h/p2u.json")
    assert error.retryable is passes
    assert ("is it http://?" in str(error)) == ("WRONG_VERSION" in text)


def test_too_many_open_files_are_called_so() -> None:
    cause = OSError(24, "Too many open files")
    error = network_error(NewConnectionError(None, f"Failed: {cause}"), "h", "http://h/p2u.json")
    assert "ulimit -n" in str(error) and error.retryable


def test_a_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:hunter2@"))
        with open_store("http://models.invalid/good") as store:
            assert b"".join(store.stream("object", 5, 5)) == DATA[5:10]
        (request,) = proxy.requests
        assert request.path == "http://models.invalid/good/object"
        assert request.headers["proxy-authorization"] == "Basic bWU6aHVudGVyMg=="
        assert "authorization" not in request.headers
    # The proxy is gone now.
    with open_store("http://models.invalid/good") as store, pytest.raises(StoreError) as caught:
        store.read("object", limit=10)
    assert caught.value.retryable
    assert "proxy" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the system's settings count too")
def test_choice_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("http://a.example/") is None
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "internal.example,10.0.0.1")
    assert proxy_for("http://a.example/") is None
    assert proxy_for("https://a.example/") == "http://proxy.example:3128"
    assert proxy_for("https://x.internal.example:8443/") is None
    for host in ("localhost", "127.0.0.1", "127.1.2.3:80", "[::1]:80"):
        assert proxy_for(f"https://{host}/") is None
    monkeypatch.setenv("https_proxy", "socks5://u:hunter2@proxy.example:1080")
    with pytest.raises(UnsupportedError, match="SOCKS") as caught:
        proxy_for("https://a.example/")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("https_proxy", "gopher://proxy.example")
    with open_store("https://a.example/") as store, pytest.raises(UsageError, match="proxy"):
        store.read("x", limit=1)


@pytest.mark.parametrize(
    ("base", "key", "expected"),
    [
        ("http://h/p/pkg", "a/b", "http://h/p/pkg/a/b"),
        ("http://h/p/pkg/", "a/b", "http://h/p/pkg/a/b"),
        ("https://h/p/pkg?sig=x%2By&e=1", "key", "https://h/p/pkg/key?sig=x%2By&e=1"),
        ("https://h/p/p2u.json?sig=x", "key", "https://h/p/key?sig=x"),
        ("https://h/p2u.json", "key", "https://h/key"),
        ("https://h/notp2u.json", "key", "https://h/notp2u.json/key"),
        ("http://u:p@h:81/a%20b#frag", "key", "http://h:81/a%20b/key"),
        ("http://[::1]:8000", "k", "http://[::1]:8000/k"),
        ("HTTP://Host/X", "100% ?#.bin", "http://Host/X/100%25%20%3F%23.bin"),
        ("  http://h/p\n", "é", "http://h/p/%C3%A9"),
    ],
)
def test_urls_of_keys(base: str, key: str, expected: str) -> None:
    parsed = BaseUrl.parse(base)
    assert parsed.request_url(key) == expected
    assert parsed.display == expected.split("?")[0].rsplit("/", key.count("/") + 1)[0]
    assert "sig" not in repr(parsed)


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///path", "http://h:99999/", "http://h:x/", "http://[::1/p"),
        *("http://h/a b", "http://h/a\r\nX: y", "http://us er@h/", "https:opaque"),
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_bad_header_values_are_the_callers_mistake() -> None:
    with (
        open_store("http://127.0.0.1:9/", headers={"X": "a\r\nY: b"}) as store,
        pytest.raises(UsageError),
    ):
        store.read("x", limit=1)


def test_open_store_chooses(tmp_path: Path) -> None:
    (tmp_path / "p2u.json").write_text("{}")
    odd = tmp_path / "a b%41"
    odd.mkdir()
    for source in (
        tmp_path,
        str(tmp_path),
        tmp_path / "p2u.json",
        tmp_path.as_uri(),
        f"{tmp_path.as_uri()}/p2u.json",
        odd,
        odd.as_uri(),
    ):
        assert isinstance(open_store(source), LocalStore)
    assert open_store(str(tmp_path / "p2u.json")).read("p2u.json", limit=9) == b"{}"
    assert isinstance(open_store("HTTPS://h/p"), HttpStore)
    for url in ("smb://server/p", "ftp://u:pw@h/p"):
        with pytest.raises(UnsupportedError, match="https") as caught:
            open_store(url)
        assert "pw" not in str(caught.value)
    with pytest.raises(UsageError, match="host"):
        open_store("file://elsewhere/p")


def test_the_repr_of_a_store_has_no_secrets() -> None:
    store = open_store("https://user:hunter2@h/p?sig=s3cr3t", headers={"X-Key": "t0ken"})
    assert store.url == "https://h/p"
    assert repr(store) == "HttpStore('https://h/p')"


def test_importing_the_stores_does_not_import_the_http_library() -> None:
    code = "import sys, p2u.stores; sys.exit('urllib3' in sys.modules or 'ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/x", "https://h/x"),
        ("x?y=1#z", "https://h/p/x?y=1"),
        ("https://u:pw@other/x", "https://other/x"),
        ("//other/x", "https://other/x"),
        ("/a b/\xc3\xa9%20", "https://h/a%20b/%C3%A9%20"),
        ("http://h/x", None),
        ("ftp://h/x", None),
        ("javascript:1", None),
        ("", None),
        (None, None),
        ("https://h:0x/", None),
    ],
)
def test_redirect_targets(location: str | None, expected: str | None) -> None:
    if expected is not None:
        assert redirect_target("https://h/p/key?sig=1", location, "shown") == expected
        return
    with pytest.raises(StoreError) as caught:
        redirect_target("https://h/p/key?sig=1", location, "shown")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("999999999", MAX_RETRY_AFTER),
        ("9999999999999", None),
        ("-1", None),
        ("soon", None),
        ("", None),
        (None, None),
        (formatdate(1_000_060, usegmt=True), 60.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("Fri, 31 Feb 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, now=1_000_000) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-9/10", ContentRange(0, 9, 10)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("Bytes */77", ContentRange(None, None, 77)),
        ("bytes 0-9", None),
        ("bytes=0-9/10", None),
        ("items 0-9/10", None),
        ("bytes -1-9/10", None),
        ("bytes 0-" + "9" * 30 + "/*", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, expected: ContentRange | None) -> None:
    assert ContentRange.parse(value) == expected


def test_content_length() -> None:
    assert content_length({"Content-Length": "17"}) == 17
    for bad in ("", "-1", "1_0", "0x1", "٣", "1, 1", "9" * 30):
        assert content_length({"Content-Length": bad}) is None
    assert content_length({}) is None


def test_keys_are_checked_before_they_become_urls() -> None:
    with pytest.raises(FormatError):
        BaseUrl.parse("http://h/p").request_url("../../etc/passwd")
