"""The first request: it is made once, at once, and only where it saves a round trip."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from store_kit import CountingStore, FlakyStore

from p2u.client.transfer import early_manifest
from p2u.client.transfer.early_manifest import EarlyManifest, ask_early
from p2u.errors import NotFoundError, UsageError
from p2u.stores import LocalStore


@pytest.fixture
def counting(tmp_path: Path) -> CountingStore:
    (tmp_path / "p2u.json").write_bytes(b"manifest")
    (tmp_path / "blob").write_bytes(b"blob")
    return CountingStore(LocalStore(tmp_path))


def test_the_first_read_has_what_was_asked_for_early(counting: CountingStore) -> None:
    store = EarlyManifest(counting)
    assert store.read("blob", limit=9) == b"blob"
    assert store.read("p2u.json", limit=9) == b"manifest"
    assert sorted(counting.reads) == ["blob", "p2u.json"]
    # Later on it is the store that answers: the manifest may have changed.
    assert store.read("p2u.json", limit=9) == b"manifest"
    assert len(counting.reads) == 3


def test_it_is_asked_for_at_once(tmp_path: Path) -> None:
    asked = threading.Event()

    class Noting(LocalStore):
        def read(self, key: str, *, limit: int) -> bytes:
            asked.set()
            return super().read(key, limit=limit)

    EarlyManifest(Noting(tmp_path))
    assert asked.wait(5)


def test_a_failure_is_met_in_the_usual_way(counting: CountingStore, tmp_path: Path) -> None:
    store = EarlyManifest(FlakyStore(counting, lambda key, start, n: n == 0))
    assert store.read("p2u.json", limit=9) == b"manifest"
    (tmp_path / "p2u.json").unlink()
    with pytest.raises(NotFoundError):
        EarlyManifest(counting).read("p2u.json", limit=9)


def test_a_large_manifest_is_read_again(counting: CountingStore, tmp_path: Path) -> None:
    data = bytes(early_manifest.LIMIT + 1)
    (tmp_path / "p2u.json").write_bytes(data)
    assert EarlyManifest(counting).read("p2u.json", limit=len(data)) == data


def test_only_remote_packages_are_asked(tmp_path: Path) -> None:
    assert ask_early(tmp_path) is None
    assert ask_early(str(tmp_path)) is None
    assert ask_early(tmp_path.as_uri()) is None
    assert ask_early(LocalStore(tmp_path)) is None
    store = ask_early("http://127.0.0.1:9/package")
    assert store is not None
    store.close()
    with pytest.raises(UsageError):
        ask_early("http://")
