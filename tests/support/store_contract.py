"""Tests the store contract: a store's tests inherit `StoreContract` and give it a ``store``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2u.errors import FormatError, NotFoundError, StoreError, UsageError
from p2u.stores import Store
from p2u.stores.base import PIECE

BLOB = "blobs/base-00.bin"
OBJECTS = {
    "p2u.json": b'{"format": 1}',
    "empty": b"",
    BLOB: random.Random(1).randbytes(3 * PIECE + 12_345),
    "deep/er/still/one": b"1",
    # Characters that mean something in URLs, shells or encodings.
    "odd name/+%41&#?;é漢='\"~.bin": random.Random(2).randbytes(1000),
}

BAD_KEYS = [
    "",
    "/etc/passwd",
    "../secret",
    "blobs/../../secret",
    "blobs/..",
    "./p2u.json",
    "blobs//base-00.bin",
    "blobs/",
    "blobs\\base-00.bin",
    "..\\secret",
    "C:/secret",
    "c:secret",
    "p2u.json\0",
    "p2u\n.json",
    "lone \ud800 surrogate",
]


def write_objects(folder: Path) -> Path:
    """Make the folder with the known objects; returns it."""
    for key, data in OBJECTS.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the known objects."""
    top = tmp_path_factory.mktemp("stores")
    (top / "secret").write_bytes(b"not for you")
    return write_objects(top / "package")


class StoreContract:
    """Inherit and define the fixture ``store`` (over `OBJECTS`)."""

    #: Whether the store can fetch a range without the bytes before it.
    ranges = True

    @pytest.fixture
    def store(self, objects: Path) -> Iterator[Store]:
        raise NotImplementedError

    @pytest.mark.parametrize("key", OBJECTS)
    def test_reads_each_object_whole(self, store: Store, key: str) -> None:
        data = OBJECTS[key]
        assert store.read(key, limit=len(data)) == data
        assert store.read(key, limit=len(data) + 10**9) == data

    def test_read_refuses_an_object_beyond_the_limit(self, store: Store) -> None:
        size = len(OBJECTS[BLOB])
        for limit in (0, 100, size - 1):
            with pytest.raises(StoreError, match=str(limit)) as caught:
                store.read(BLOB, limit=limit)
            assert not caught.value.retryable
            assert BLOB in str(caught.value)

    @pytest.mark.parametrize("key", ["absent", "blobs/absent", "p2u.json/below", "absent/x/y"])
    def test_absent_keys(self, store: Store, key: str) -> None:
        for attempt in (
            lambda: store.read(key, limit=100),
            lambda: list(store.stream(key, 0, 1)),
        ):
            with pytest.raises(NotFoundError) as caught:
                attempt()
            assert key in str(caught.value)
            assert not caught.value.retryable

    def test_a_folder_is_not_an_object(self, store: Store) -> None:
        with pytest.raises(StoreError) as caught:
            store.read("blobs", limit=10**6)
        assert not caught.value.retryable

    @pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
    def test_bad_keys(self, store: Store, key: str) -> None:
        with pytest.raises(FormatError):
            store.read(key, limit=100)
        with pytest.raises(FormatError):
            store.stream(key, 0, 1)  # at the call already, not at the first piece

    @pytest.mark.parametrize("key", OBJECTS)
    def test_streams_each_object_whole(self, store: Store, key: str) -> None:
        data = OBJECTS[key]
        assert b"".join(store.stream(key, 0, len(data))) == data

    @pytest.mark.parametrize(
        ("start", "length"),
        [(0, 1), (1, 1), (PIECE - 1, 2), (PIECE, PIECE), (12_345, 2 * PIECE + 1), (-1, 1)],
    )
    def test_streams_a_range(self, store: Store, start: int, length: int) -> None:
        data = OBJECTS[BLOB]
        start %= len(data)
        pieces = list(store.stream(BLOB, start, length))
        assert b"".join(pieces) == data[start : start + length]
        assert all(0 < len(piece) <= PIECE for piece in pieces)

    def test_an_empty_range_needs_no_request(self, store: Store) -> None:
        assert list(store.stream("absent", 0, 0)) == []
        assert list(store.stream(BLOB, 10**15, 0)) == []

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (-5, 0)])
    def test_negative_ranges(self, store: Store, start: int, length: int) -> None:
        with pytest.raises(UsageError):
            store.stream(BLOB, start, length)

    @pytest.mark.parametrize("start", [-10, 0, 1, 10**12])
    def test_a_range_behind_the_end(self, store: Store, start: int) -> None:
        size = len(OBJECTS[BLOB])
        with pytest.raises(StoreError, match=str(size)) as caught:
            list(store.stream(BLOB, size + start, 11))
        assert not caught.value.retryable
        assert BLOB in str(caught.value)

    def test_random_ranges(self, store: Store) -> None:
        data, rng = OBJECTS[BLOB], random.Random(3)
        for _ in range(20):
            start = rng.randrange(len(data))
            length = rng.randrange(len(data) - start + 1)
            assert b"".join(store.stream(BLOB, start, length)) == data[start : start + length]

    def test_closing_a_stream_early(self, store: Store) -> None:
        for _ in range(5):
            pieces = store.stream(BLOB, 0, len(OBJECTS[BLOB]))
            assert OBJECTS[BLOB].startswith(next(pieces))
            pieces.close()
            assert list(pieces) == []
        assert store.read("p2u.json", limit=100) == OBJECTS["p2u.json"]

    def test_sixteen_threads(self, store: Store) -> None:
        data = OBJECTS[BLOB]
        step = 20_000

        def part(start: int) -> bytes:
            return b"".join(store.stream(BLOB, start, min(step, len(data) - start)))

        with ThreadPoolExecutor(16) as pool:
            assert b"".join(pool.map(part, range(0, len(data), step))) == data

    def test_says_whether_ranges_work(self, store: Store) -> None:
        assert store.supports_ranges
        list(store.stream(BLOB, 5, 5))
        assert store.supports_ranges is self.ranges

    def test_closed(self, store: Store) -> None:
        started = store.stream(BLOB, 0, len(OBJECTS[BLOB]))
        next(started)
        store.close()
        store.close()
        for attempt in (
            lambda: list(started),
            lambda: store.read("p2u.json", limit=100),
            lambda: list(store.stream(BLOB, 0, 1)),
        ):
            with pytest.raises(StoreError, match="closed") as caught:
                attempt()
            assert not caught.value.retryable

    def test_polls_for_changes(self, store: Store) -> None:
        data, mark = store.poll("p2u.json", limit=100)
        assert data == OBJECTS["p2u.json"]
        for _ in range(2):
            again, mark = store.poll("p2u.json", limit=100, mark=mark)
            assert again is None
        with pytest.raises(StoreError, match="3"):
            store.poll("p2u.json", limit=3)
        with pytest.raises(NotFoundError):
            store.poll("absent", limit=100, mark=mark)
