"""The store in front of a remote one: any bytes, wherever they are; each fetched once."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_contract import BLOB, OBJECTS, StoreContract, objects

from p2u.cache.cache import Cache
from p2u.cache.store import CachedRange, CachedStore
from p2u.errors import NotFoundError, StoreError
from p2u.stores import Forwarding, LocalStore, Store

__all__ = ["objects"]

DATA = OBJECTS[BLOB]


class Counted(Forwarding):
    """A store that notes what is asked of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[tuple[int, int]] = []

    def stream(self, key, start, length):
        self.asked.append((start, length))
        return super().stream(key, start, length)


def ranges(*ends: int) -> list[CachedRange]:
    starts = [0, *ends]
    return [
        CachedRange(a, b, hashlib.sha256(DATA[a:b]).hexdigest())
        for a, b in zip(starts, ends, strict=False)
    ]


EVEN = ranges(*range(10_000, len(DATA) + 1, 10_000))


def described(found: list[CachedRange]) -> list[tuple[int, int, str]]:
    return [(r.start, r.stop, r.sha256) for r in found]


def cached_store(objects: Path, folder: Path) -> tuple[CachedStore, Counted]:
    inner = Counted(LocalStore(objects))
    store = CachedStore(inner, Cache(folder, limit=1 << 30))
    store.describe(BLOB, described(EVEN))
    return store, inner


def keep(store: CachedStore, *numbers: int) -> None:
    for number in numbers:
        found = EVEN[number]
        store.keep(found.sha256, DATA[found.start : found.stop])


class TestCached(StoreContract):
    @pytest.fixture
    def store(self, objects: Path, tmp_path: Path) -> Iterator[Store]:
        store, _ = cached_store(objects, tmp_path)
        keep(store, *range(0, len(EVEN), 2))
        with store:
            yield store


@given(data=st.data())
def test_any_range_is_right_whatever_the_cache_has(
    objects: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store, inner = cached_store(objects, tmp_path_factory.mktemp("cache"))
    here = data.draw(st.sets(st.integers(0, len(EVEN) - 1)), "here")
    start = data.draw(st.integers(0, len(DATA)), "start")
    length = data.draw(st.integers(0, len(DATA) - start), "length")
    keep(store, *here)
    with store:
        assert b"".join(store.stream(BLOB, start, length)) == DATA[start : start + length]
    asked = {n for at, size in inner.asked for n in range(at // 10_000, (at + size) // 10_000)}
    assert not asked & here, "what the cache has is asked of nobody"


def test_what_is_read_twice_is_fetched_twice_unless_its_reader_keeps_it(
    objects: Path, tmp_path: Path
) -> None:
    store, inner = cached_store(objects, tmp_path)
    for _ in range(2):
        list(store.stream(BLOB, 0, 20_000))
    assert inner.asked == [(0, 20_000)] * 2
    keep(store, 0, 1)
    list(store.stream(BLOB, 0, 30_000))
    assert inner.asked[2:] == [(20_000, 10_000)]
    store.forget(EVEN[0].sha256)
    list(store.stream(BLOB, 0, 20_000))
    assert inner.asked[3:] == [(0, 10_000)]


def test_a_file_that_was_cut_is_fetched_again(objects: Path, tmp_path: Path) -> None:
    store, _ = cached_store(objects, tmp_path)
    keep(store, 0)
    path = store.cache.objects.path(EVEN[0].sha256)
    path.write_bytes(path.read_bytes()[:5000])
    assert b"".join(store.stream(BLOB, 0, 10_000)) == DATA[:10_000]


def test_two_processes_fetch_each_byte_once(objects: Path, tmp_path: Path) -> None:
    """The second one waits for what the first one has claimed, and fetches the rest."""
    first, asked_first = cached_store(objects, tmp_path)
    second, asked_second = cached_store(objects, tmp_path)
    stream = first.stream(BLOB, 0, 30_000)
    piece = next(stream)
    got: list[bytes] = []
    thread = threading.Thread(
        target=lambda: got.append(b"".join(second.stream(BLOB, 0, 50_000))), daemon=True
    )
    thread.start()
    thread.join(0.1)
    assert thread.is_alive() and not asked_second.asked
    assert piece + b"".join(stream) == DATA[:30_000]
    keep(first, 0, 1, 2)
    thread.join(30)
    assert got == [DATA[:50_000]]
    assert (asked_first.asked, asked_second.asked) == ([(0, 30_000)], [(30_000, 20_000)])


def test_who_gives_up_leaves_the_rest_to_the_others(objects: Path, tmp_path: Path) -> None:
    first, _ = cached_store(objects, tmp_path)
    second, asked = cached_store(objects, tmp_path)
    stream = first.stream(BLOB, 0, len(DATA))
    next(stream)
    stream.close()
    assert b"".join(second.stream(BLOB, 300_000, 100_000)) == DATA[300_000:400_000]
    assert asked.asked == [(300_000, 100_000)]


def test_closing_ends_the_wait_for_another_process(objects: Path, tmp_path: Path) -> None:
    first, _ = cached_store(objects, tmp_path)
    second, _ = cached_store(objects, tmp_path)
    stream = first.stream(BLOB, 0, 10_000)
    next(stream)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            list(second.stream(BLOB, 0, 10_000))
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(0.1)
    second.close()
    thread.join(30)
    assert "closed" in str(errors[0])


def test_offline_nothing_is_asked_of_the_network(
    objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    store, inner = cached_store(objects, tmp_path)
    keep(store, 0, 1)
    assert b"".join(store.stream(BLOB, 5000, 10_000)) == DATA[5000:15_000]
    for attempt in (
        lambda: list(store.stream(BLOB, 15_000, 10_000)),
        lambda: store.read("p2u.json", limit=100),
        lambda: store.poll("p2u.json", limit=100),
        lambda: list(store.stream("empty", 0, 1)),
    ):
        with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE forbids the network"):
            attempt()
    assert not inner.asked
    monkeypatch.setenv("P2U_OFFLINE", "0")
    allowed, _ = cached_store(objects, tmp_path)
    assert b"".join(allowed.stream(BLOB, 0, 10)) == DATA[:10], "it decides where both are set"


def test_an_unreachable_manifest_is_the_one_read_last(objects: Path, tmp_path: Path) -> None:
    class Away(Forwarding):
        error = StoreError("no route to host", retryable=True)

        def read(self, key: str, *, limit: int) -> bytes:
            raise self.error

    away = Away(LocalStore(objects))
    store = CachedStore(away, Cache(tmp_path, limit=1000))
    with pytest.raises(StoreError, match="no route"):
        store.read("p2u.json", limit=1000)
    store.cache.manifests.put(store.url, b"{}")
    assert store.read("p2u.json", limit=1000) == b"{}"
    with pytest.raises(StoreError, match="no route"):
        store.read("layout.json", limit=1000)
    away.error = NotFoundError("HTTP status 404")
    with pytest.raises(NotFoundError):
        store.read("p2u.json", limit=1000)


def test_ranges_may_be_in_any_order_and_have_gaps(objects: Path, tmp_path: Path) -> None:
    store = CachedStore(LocalStore(objects), Cache(tmp_path, limit=1 << 20))
    few = [EVEN[n] for n in (7, 2, 3, 11)]
    random.Random(1).shuffle(few)
    store.describe(BLOB, described(few))
    for found in few:
        store.keep(found.sha256, DATA[found.start : found.stop])
    assert b"".join(store.stream(BLOB, 0, len(DATA))) == DATA
