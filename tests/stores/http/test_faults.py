"""Servers that misbehave: our error, the right ``retryable``; never a hang or wrong bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fault_server import DATA, FaultServer

from p2u.errors import NotFoundError, P2UError, StoreError
from p2u.stores import Store, open_store

#: Seconds; short only for servers that are slow on purpose, so that a busy machine is no fault.
STALL = 0.2
PATIENT = 10.0
SLOW = {"drip-body", "drip-header", "drip-chunk-size", "silent", "stops-mid-body"}
START, LENGTH = 1000, 2000
EXPECTED = DATA[START : START + LENGTH]
SECRETS = ("s3cr3t", "hunter2", "t0ken")


@pytest.fixture(scope="module")
def module_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(module_server: FaultServer) -> FaultServer:
    module_server.requests.clear()
    return module_server


def store_for(
    server: FaultServer,
    name: str,
    stall: float | None = None,
    headers: dict[str, str] | None = None,
) -> Store:
    host = server.url.removeprefix("http://")
    url = f"http://user:hunter2@{host}/{name}?sig=s3cr3t"
    stall = stall or (STALL if name in SLOW else PATIENT)
    return open_store(url, connect_timeout=5, stall_timeout=stall, headers=headers)


def fetch(store: Store, start: int = START, length: int = LENGTH) -> bytes:
    return b"".join(store.stream("object", start, length))


def failure(store: Store, kind: type[P2UError] = StoreError) -> P2UError:
    """The error of a range request; checked for what every message must keep to."""
    begun = time.monotonic()
    with pytest.raises(P2UError) as caught:
        fetch(store)
    assert time.monotonic() - begun < 3
    error = caught.value
    assert type(error) is kind, repr(error)
    assert "object" in str(error)
    assert error.hint
    assert not any(secret in str(error) for secret in SECRETS)
    return error


def read_failure(store: Store) -> P2UError:
    """The error of reading the whole object."""
    with pytest.raises(P2UError) as caught:
        store.read("object", limit=len(DATA))
    return caught.value


@pytest.mark.parametrize(
    ("name", "retryable"),
    [
        ("wrong-content-range", False),
        ("absurd-content-range", False),
        ("no-content-range", False),
        ("multipart", False),
        ("longer-range", False),
        ("announced-too-much", False),
        ("gzip", False),
        ("not-satisfiable", False),
        ("redirect-loop", False),
        ("redirect-nowhere", False),
        ("redirect-to-file", False),
        ("redirect-to-nonsense", False),
        ("status-204", False),
        ("status-206", False),
        ("status-304", False),
        ("status-400", False),
        ("status-401", False),
        ("status-403", False),
        ("status-407", False),
        ("status-501", False),
        ("status-999", False),
        ("cut-header", True),
        ("short-body", True),
        ("short-whole", True),
        ("reset", True),
        ("reset-at-once", True),
        ("garbage", True),
        ("endless-headers", True),
        ("long-header", True),
        ("bad-chunks", True),
        ("retry-nonsense", True),
        ("status-408", True),
        ("status-429", True),
        ("status-500", True),
        ("status-502", True),
        ("status-503", True),
        ("status-504", True),
        ("status-522", True),
        ("drip-body", True),
        ("drip-header", True),
        ("drip-chunk-size", True),
        ("silent", True),
        ("stops-mid-body", True),
    ],
)
def test_faults(server: FaultServer, name: str, retryable: bool) -> None:
    with store_for(server, name) as store:
        error = failure(store)
        assert isinstance(error, StoreError)
        assert error.retryable is retryable
        assert error.retry_after is None
        # read() has no range, so some of these are fine there; what is not is our error too.
        try:
            store.read("object", limit=len(DATA))
        except StoreError as read_error:
            assert not any(secret in str(read_error) for secret in SECRETS)


@pytest.mark.parametrize("name", ["status-404", "status-410", "redirect-to-404", "big-error-page"])
def test_not_found(server: FaultServer, name: str) -> None:
    with store_for(server, name) as store:
        error = failure(store, NotFoundError)
        assert isinstance(error, NotFoundError)
        assert not error.retryable


@pytest.mark.parametrize(
    "name",
    [
        *("good", "plain", "redirect", "chunked", "capped", "unknown-size"),
        *("weak-etag", "etag-becomes-strong"),
        # Whether they are the right bytes is said by digests, not by headers.
        *("etag-changes", "etag-changes-politely", "size-changes"),
    ],
)
def test_unusual_but_correct(server: FaultServer, name: str) -> None:
    with store_for(server, name) as store:
        assert fetch(store) == EXPECTED
        assert fetch(store, 0, 5000) == DATA[:5000]
        assert store.supports_ranges


def test_bytes_after_the_body_are_not_taken_for_data(server: FaultServer) -> None:
    with store_for(server, "extra-body") as store:
        assert fetch(store) == EXPECTED
        # They may reach the connection before or after its next use.
        try:
            assert fetch(store, 0, 5000) == DATA[:5000]
        except StoreError as error:
            assert error.retryable


@pytest.mark.parametrize("name", ["ignores-range", "ignores-range-http10"])
def test_without_ranges(server: FaultServer, name: str) -> None:
    with store_for(server, name) as store:
        assert store.supports_ranges
        assert fetch(store) == EXPECTED
        assert not store.supports_ranges
        assert fetch(store, 0, len(DATA)) == DATA
    assert "range" in server.requests[0].headers
    assert "range" not in server.requests[1].headers


def test_a_200_for_the_whole_object_says_nothing_about_ranges(server: FaultServer) -> None:
    with store_for(server, "ignores-range") as store:
        assert fetch(store, 0, len(DATA)) == DATA
        assert store.supports_ranges


def test_retry_after(server: FaultServer) -> None:
    for name, low, high in (("retry-seconds", 3, 3), ("retry-date", 27, 30)):
        with store_for(server, name) as store:
            error = failure(store)
            assert isinstance(error, StoreError)
            assert error.retry_after is not None
            assert low <= error.retry_after <= high


def test_no_request_depends_on_an_etag(server: FaultServer) -> None:
    with store_for(server, "good") as store:
        fetch(store)
        fetch(store)
    assert all("if-range" not in request.headers for request in server.requests)


@pytest.mark.parametrize("name", ["login-page", "login-page-as-bytes", "redirect-to-login"])
def test_a_web_page_is_called_one(server: FaultServer, name: str) -> None:
    with store_for(server, name) as store:
        for error in (failure(store), read_failure(store)):
            assert isinstance(error, StoreError)
            assert "web page" in str(error) and "object" in str(error)
            assert "Log in" in str(error) and not error.retryable
        assert store.supports_ranges  # it says nothing about the server behind it


def test_bytes_that_look_a_bit_like_a_page(server: FaultServer) -> None:
    with store_for(server, "wrong-type") as store:
        assert fetch(store, 0, len(DATA)) == DATA
        assert store.read("object", limit=len(DATA)) == DATA


def test_each_request_is_a_get_for_the_exact_range(server: FaultServer) -> None:
    with store_for(server, "good", headers={"X-Api-Key": "t0ken"}) as store:
        fetch(store)
    (request,) = server.requests  # anything but GET would have been refused
    assert request.path == "/good/object?sig=s3cr3t"
    assert request.headers["range"] == "bytes=1000-2999"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["authorization"] == "Basic dXNlcjpodW50ZXIy"
    assert request.headers["x-api-key"] == "t0ken"


def test_credentials_do_not_follow_to_another_origin(server: FaultServer) -> None:
    with FaultServer() as other:
        server.other = other.url
        with store_for(server, "redirect-away", headers={"X-Api-Key": "t0ken"}) as store:
            assert fetch(store) == EXPECTED
            assert "other" not in store.url
        (request,) = other.requests
        assert request.path == "/good/moved%20object?token=t0ken"
        assert request.headers["range"] == "bytes=1000-2999"
        assert not {"authorization", "x-api-key", "cookie", "referer"} & set(request.headers)
        assert "s3cr3t" not in request.path


def test_connections_are_kept(server: FaultServer) -> None:
    before = server.connections
    with store_for(server, "redirect") as store:
        for _ in range(5):
            fetch(store)
    assert server.connections - before == 1


def test_a_kept_connection_that_the_server_closed_meanwhile(server: FaultServer) -> None:
    with store_for(server, "closes-silently") as store:
        for _ in range(3):
            assert fetch(store) == EXPECTED
            time.sleep(0.02)


def test_nobody_listens() -> None:
    with FaultServer() as server:
        pass
    with store_for(server, "good") as store:
        error = failure(store)
        assert isinstance(error, StoreError)
        assert error.retryable
        assert "refused" in str(error)


def test_a_name_that_does_not_resolve() -> None:
    with open_store("http://no-such-host.invalid/p") as store:
        error = failure(store)
        assert isinstance(error, StoreError)
        assert error.retryable
        assert "no-such-host.invalid" in str(error)


def test_a_stall_is_a_matter_of_pace_not_of_gaps(server: FaultServer) -> None:
    """The time that the caller takes between two pieces does not count."""
    with store_for(server, "good", stall=STALL) as store:
        pieces = store.stream("object", 0, len(DATA))
        got = next(pieces)
        time.sleep(2 * STALL)
        assert got + b"".join(pieces) == DATA


@pytest.mark.parametrize("name", ["silent", "stops-mid-body", "drip-header"])
def test_close_ends_a_transfer_that_waits_in_another_thread(server: FaultServer, name: str) -> None:
    url = f"{server.url}/{name}"
    store = open_store(url, stall_timeout=60)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            fetch(store)
        except P2UError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    time.sleep(0.05)
    store.close()
    thread.join(timeout=2)
    assert not thread.is_alive()
    assert isinstance(caught[0], StoreError)
    assert "closed" in str(caught[0])
    assert not caught[0].retryable


def test_the_watchdog_thread_goes_away(server: FaultServer) -> None:
    with store_for(server, "good", stall=STALL) as store:
        fetch(store)
        deadline = time.monotonic() + 3
        while any(thread.name == "p2u-watchdog" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert fetch(store) == EXPECTED
