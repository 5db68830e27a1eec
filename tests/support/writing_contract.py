"""Tests the contract of stores that can be written, in addition to the one of reading."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_contract import BAD_KEYS, OBJECTS, StoreContract

from p2u.errors import ConflictError, FormatError, NotFoundError, StoreError
from p2u.stores import ABSENT, WritableStore

MANIFEST = "p2u.json"
#: Opens the same place again, as another process would.
Reopen = Callable[[], WritableStore]


def fill(store: WritableStore) -> None:
    """Put `OBJECTS`, the manifest last, as publishers do."""
    for key, data in OBJECTS.items():
        if key != MANIFEST:
            store.put(key, data)
    store.put(MANIFEST, OBJECTS[MANIFEST], tag=ABSENT)


class WritingContract(StoreContract):
    """Inherit and define the fixtures ``filled`` (over `OBJECTS`) and ``reopen`` (empty)."""

    @pytest.fixture
    def reopen(self) -> Iterator[Reopen]:
        """Opens one place, which is empty before each test."""
        raise NotImplementedError

    @pytest.fixture
    def empty(self, reopen: Reopen) -> Iterator[WritableStore]:
        with reopen() as store:
            yield store

    def test_what_is_put_is_there_for_others(
        self, empty: WritableStore, reopen: Reopen, tmp_path: Path
    ) -> None:
        data = random.Random(4).randbytes(300_000)
        (tmp_path / "content").write_bytes(data)
        empty.put("v1/base-000.bin", tmp_path / "content")
        empty.put("v1/layout.json", b"{}")
        empty.put("v1/empty", b"")
        empty.put(MANIFEST, b"one", tag=ABSENT)
        with reopen() as other:
            assert other.read("v1/base-000.bin", limit=10**6) == data
            assert b"".join(other.stream("v1/base-000.bin", 100, 200)) == data[100:300]
            assert other.read("v1/empty", limit=0) == b""
            assert other.read(MANIFEST, limit=100) == b"one"

    def test_odd_keys(self, empty: WritableStore, reopen: Reopen) -> None:
        fill(empty)
        with reopen() as other:
            for key, data in OBJECTS.items():
                assert other.read(key, limit=len(data)) == data
            found = {entry.key: entry.size for entry in other.list_objects()}
            assert found == {key: len(data) for key, data in OBJECTS.items()}

    def test_put_replaces(self, empty: WritableStore, reopen: Reopen) -> None:
        empty.put("a", b"old and long")
        empty.put("a", b"new")
        empty.put(MANIFEST, b"{}")
        with reopen() as other:
            assert other.read("a", limit=100) == b"new"

    def test_only_where_there_is_none(self, empty: WritableStore, reopen: Reopen) -> None:
        empty.put(MANIFEST, b"first", tag=ABSENT)
        with reopen() as other, pytest.raises(ConflictError) as caught:
            other.put(MANIFEST, b"second", tag=ABSENT)
        assert MANIFEST in str(caught.value)
        assert empty.read(MANIFEST, limit=100) == b"first"

    def test_only_if_it_is_the_same_still(self, empty: WritableStore, reopen: Reopen) -> None:
        empty.put(MANIFEST, b"1", tag=ABSENT)
        data, tag = empty.read_tagged(MANIFEST, limit=100)
        assert data == b"1"
        with reopen() as other:
            assert other.read_tagged(MANIFEST, limit=100) == (data, tag)
            other.put(MANIFEST, b"2", tag=tag)
        with pytest.raises(ConflictError):
            empty.put(MANIFEST, b"3", tag=tag)
        data, tag = empty.read_tagged(MANIFEST, limit=100)
        assert data == b"2"
        empty.put(MANIFEST, b"3", tag=tag)
        assert empty.read(MANIFEST, limit=100) == b"3"

    def test_a_tag_of_what_is_gone(self, empty: WritableStore) -> None:
        empty.put(MANIFEST, b"1")
        tag = empty.read_tagged(MANIFEST, limit=100)[1]
        empty.delete([MANIFEST])
        with pytest.raises(ConflictError):
            empty.put(MANIFEST, b"2", tag=tag)
        with pytest.raises(NotFoundError):
            empty.read_tagged(MANIFEST, limit=100)

    def test_many_at_once_one_wins(self, empty: WritableStore, reopen: Reopen) -> None:
        """Each tries to be the first; all others learn that they were not."""

        def publish(number: int) -> bool:
            with reopen() as store:
                try:
                    store.put(MANIFEST, b"%d" % number, tag=ABSENT)
                except ConflictError:
                    return False
                return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(publish, range(4)))
        assert won.count(True) == 1
        assert empty.read(MANIFEST, limit=100) == b"%d" % won.index(True)

    def test_puts_in_parallel(self, empty: WritableStore, reopen: Reopen) -> None:
        contents = {f"v1/b-{n:03d}.bin": random.Random(n).randbytes(1000 + n) for n in range(12)}
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda item: empty.put(item[0], item[1], tag=ABSENT), contents.items()))
        empty.put(MANIFEST, b"{}", tag=ABSENT)
        with reopen() as other:
            for key, data in contents.items():
                assert other.read(key, limit=10**6) == data

    def test_find(self, empty: WritableStore) -> None:
        assert empty.find("v1/a") is None
        empty.put("v1/a", b"12345")
        empty.put(MANIFEST, b"{}")
        found = empty.find("v1/a")
        assert found is not None
        assert (found.key, found.size) == ("v1/a", 5)
        assert found.sha256 in (None, hashlib.sha256(b"12345").hexdigest())
        assert empty.find("v1") is None

    def test_list_and_delete(self, empty: WritableStore, reopen: Reopen) -> None:
        assert list(empty.list_objects()) == []
        fill(empty)
        empty.delete(["empty", "deep/er/still/one", "never/there"])
        with reopen() as other:
            keys = {entry.key for entry in other.list_objects()}
            assert keys == OBJECTS.keys() - {"empty", "deep/er/still/one"}
            with pytest.raises(NotFoundError):
                other.read("empty", limit=10)
        empty.delete([])

    @pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
    def test_bad_keys_are_not_written(self, empty: WritableStore, key: str) -> None:
        for attempt in (
            lambda: empty.put(key, b"x"),
            lambda: empty.delete([key]),
            lambda: empty.find(key),
        ):
            with pytest.raises(FormatError):
                attempt()

    def test_a_closed_store_writes_nothing(self, reopen: Reopen) -> None:
        store = reopen()
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.put("a", b"x")
        with reopen() as other:
            assert list(other.list_objects()) == []
