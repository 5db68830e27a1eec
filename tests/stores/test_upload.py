"""Upload many objects: none replaced, none twice, all given up together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest

from p2u.errors import Cancelled, ConflictError, StoreError
from p2u.stores import ABSENT, LocalStore, StoredObject, WritableStore
from p2u.stores.backoff import Retry
from p2u.stores.local import create_folder
from p2u.stores.retrying import Pause, Retrying, with_retries
from p2u.stores.upload import upload
from p2u.stores.writable import Content

FAST = Retry(0.001, 0.002)


class WrappedStore(WritableStore):
    """A folder, whose writes can be watched or broken."""

    def __init__(self, folder: Path) -> None:
        self.store = create_folder(str(folder))
        self.url = self.store.url
        self.puts: list[str] = []

    def before_put(self, key: str) -> None:
        """Called before an object is put."""

    def after_put(self, key: str) -> None:
        """Called when an object is put."""

    def put(self, key: str, content: Content, *, tag: str | None = None) -> None:
        self.puts.append(key)
        self.before_put(key)
        self.store.put(key, content, tag=tag)
        self.after_put(key)

    def read(self, key: str, *, limit: int) -> bytes:
        return self.store.read(key, limit=limit)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        return self.store.stream(key, start, length)

    def read_tagged(self, key: str, *, limit: int) -> tuple[bytes, str]:
        return self.store.read_tagged(key, limit=limit)

    def find(self, key: str) -> StoredObject | None:
        return self.store.find(key)

    def list_objects(self) -> Iterator[StoredObject]:
        return self.store.list_objects()

    def delete(self, keys: Iterable[str]) -> None:
        self.store.delete(keys)


def broken(retryable: bool) -> StoreError:
    return StoreError("broken on purpose", retryable=retryable)


def test_all_are_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    sizes: list[int] = []
    store = create_folder(str(tmp_path / "p"))
    contents: dict[str, Content] = {"a/b": b"bytes", "c": tmp_path / "file", "empty": b""}
    assert upload(store, contents, retry=FAST, report=sizes.append) == {}
    assert store.read("c", limit=100) == b"from a file"
    assert sorted(sizes) == [0, 5, 11]


def test_the_same_content_is_not_put_twice(tmp_path: Path) -> None:
    store = WrappedStore(tmp_path / "p")
    upload(store, {"a": b"1", "b": b"2"}, retry=FAST)
    upload(store, {"a": b"1", "b": b"2", "c": b"3"}, retry=FAST)
    assert sorted(store.puts) == ["a", "b", "c"]


def test_other_content_is_not_replaced(tmp_path: Path) -> None:
    store = WrappedStore(tmp_path / "p")
    upload(store, {"v1/a.bin": b"mine"}, retry=FAST)
    names = upload(store, {"v1/a.bin": b"theirs, of another size"}, retry=FAST)
    digest = hashlib.sha256(b"theirs, of another size").hexdigest()
    assert names == {"v1/a.bin": f"v1/{digest[:16]}-a.bin"}
    assert store.read("v1/a.bin", limit=100) == b"mine"
    assert upload(store, {"v1/a.bin": b"theirs, of another size"}, retry=FAST) == names
    assert upload(store, {"v1/a.bin": b"Mine"}, retry=FAST) != {}  # of the same size


def test_an_answer_that_gets_lost(tmp_path: Path) -> None:
    """It was put, and nobody knows: the next try finds it."""

    class Forgetful(WrappedStore):
        def after_put(self, key: str) -> None:
            if self.puts.count(key) == 1:
                raise broken(retryable=True)

    store = Forgetful(tmp_path / "p")
    assert upload(store, {"a": b"1"}, retry=FAST) == {}
    assert store.puts == ["a"]


def test_somebody_is_first(tmp_path: Path) -> None:
    class Late(WrappedStore):
        def before_put(self, key: str) -> None:
            if self.puts == ["a"]:
                LocalStore(self.url).put("a", b"theirs", tag=ABSENT)

    names = upload(Late(tmp_path / "p"), {"a": b"mine"}, retry=FAST)
    assert list(names) == ["a"]
    assert LocalStore(tmp_path / "p").read("a", limit=10) == b"theirs"


def test_all_are_given_up_together(tmp_path: Path) -> None:
    """One fails for good; those that wait for their next try, or their turn, end at once."""

    class Broken(WrappedStore):
        def before_put(self, key: str) -> None:
            raise broken(retryable=key != "b")

    store = Broken(tmp_path / "p")
    begin = time.monotonic()
    with pytest.raises(StoreError):
        upload(store, dict.fromkeys("abcdefghij", b"x"), retry=Retry(600.0, 600.0))
    assert time.monotonic() - begin < 60
    assert len(store.puts) < 10


def test_retries_end(tmp_path: Path) -> None:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        raise broken(retryable=count < 3)

    with pytest.raises(StoreError):
        with_retries(call, FAST)
    assert count == 3
    pause = Pause()
    pause.end()
    with pytest.raises(Cancelled):
        pause(100.0)
    with pytest.raises(ConflictError):
        create_folder(str(tmp_path / "p")).put("a", b"x", tag="another")


def test_a_stream_goes_on_where_it_broke(tmp_path: Path) -> None:
    class Cut(WrappedStore):
        cuts = 0

        def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
            yield from super().stream(key, start, min(length, 1000))
            if length > 1000:
                self.cuts += 1
                raise broken(retryable=True)

    data = bytes(range(256)) * 20
    store = Cut(tmp_path / "p")
    store.put("a", data)
    assert b"".join(Retrying(store, FAST).stream("a", 7, 5000)) == data[7:5007]
    assert store.cuts == 4
