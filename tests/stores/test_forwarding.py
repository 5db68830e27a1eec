"""Stores that wrap another one: nothing of it gets lost on the way."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from p2u.stores import Forwarding, LocalStore, RateLimiter, Store, ThrottledStore, open_store
from p2u.stores.forwarding import KeepOpen


class Odd(Store):
    """A store whose every answer differs from the defaults of `Store`."""

    url = "odd://place"
    remote = True
    supports_ranges = False
    knows_ranges = False
    closed = 0

    def read(self, key: str, *, limit: int) -> bytes:
        return f"{key} {limit}".encode()

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        return b"polled", f"{key} {limit} {mark}"

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        yield f"{key} {start} {length}".encode()

    def close(self) -> None:
        self.closed += 1


def wrapped(odd: Odd) -> list[Forwarding]:
    return [Forwarding(odd), KeepOpen(odd), ThrottledStore(odd, RateLimiter(1e9))]


@pytest.mark.parametrize("number", range(3))
def test_everything_is_the_other_store_s(number: int) -> None:
    store = wrapped(Odd())[number]
    assert store.url == "odd://place"
    assert store.remote
    assert not store.supports_ranges
    assert not store.knows_ranges
    assert store.read("k", limit=3) == b"k 3"
    assert store.poll("k", limit=3, mark="m") == (b"polled", "k 3 m")
    assert list(store.stream("k", 1, 2)) == [b"k 1 2"]


def test_no_member_of_a_store_is_forgotten() -> None:
    members = {name for name in vars(Store) if not name.startswith("_")}
    assert members <= vars(Forwarding).keys()
    assert members <= vars(Odd).keys()


def test_closing() -> None:
    odd = Odd()
    plain, keep, throttled = wrapped(odd)
    keep.close()
    assert not odd.closed
    for close in (plain.close, throttled.close, keep.end):  # type: ignore[attr-defined]
        before = odd.closed
        close()
        assert odd.closed == before + 1


def test_which_stores_are_remote(tmp_path) -> None:
    assert not LocalStore(tmp_path).remote
    assert not open_store(tmp_path.as_uri()).remote
    assert open_store("http://127.0.0.1:9/p").remote
