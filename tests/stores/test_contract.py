"""Every store, and every kind of server, against the one contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nginx import Nginx, find_nginx
from servers import missing
from store_contract import StoreContract, objects
from writing_contract import Reopen, WritingContract

from p2u.serve import make_server
from p2u.stores import (
    Forwarding,
    LocalStore,
    RateLimiter,
    Store,
    ThrottledStore,
    open_store,
    open_writable,
)
from p2u.stores.http.store import HttpStore

__all__ = ["objects"]


@pytest.fixture(scope="module")
def dev_url(objects: Path) -> Iterator[str]:
    with make_server(objects, quiet=True) as server:
        yield server.url


@pytest.fixture(scope="module")
def nginx(objects: Path) -> Iterator[Nginx]:
    if find_nginx() is None:
        missing("nginx", "Debian: apt-get install nginx-light")
    with Nginx(objects) as server:
        yield server


class TestLocal(WritingContract):
    @pytest.fixture
    def store(self, objects: Path) -> Iterator[Store]:
        with open_store(objects) as store:
            assert isinstance(store, LocalStore)
            yield store

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        return lambda: open_writable(tmp_path / "new" / "package")


class TestForwarding(StoreContract):
    @pytest.fixture
    def store(self, objects: Path) -> Iterator[Store]:
        with Forwarding(LocalStore(objects)) as store:
            yield store


class TestThrottled(StoreContract):
    @pytest.fixture
    def store(self, objects: Path) -> Iterator[Store]:
        with ThrottledStore(LocalStore(objects), RateLimiter(1e9)) as store:
            yield store


class TestHttpDevelopmentServer(StoreContract):
    @pytest.fixture
    def store(self, dev_url: str) -> Iterator[Store]:
        with open_store(dev_url, stall_timeout=5) as store:
            assert isinstance(store, HttpStore)
            yield store


class TestHttpNginx(StoreContract):
    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[Store]:
        with open_store(f"{nginx.url}/p2u.json", stall_timeout=5) as store:
            yield store


class TestHttpNginxWithoutRanges(StoreContract):
    ranges = False

    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[Store]:
        with open_store(f"{nginx.url}/noranges/", stall_timeout=5) as store:
            yield store


class TestHttpNginxPresigned(StoreContract):
    """GET only, and only with the signature in the query."""

    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[Store]:
        with open_store(f"{nginx.url}/signed?sig=s3cr3t", stall_timeout=5) as store:
            yield store


class TestHttpNginxRedirected(StoreContract):
    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[Store]:
        with open_store(f"{nginx.url}/moved", stall_timeout=5) as store:
            yield store
