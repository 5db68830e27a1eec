"""Copy packages between stores of all kinds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packing_kit import content, model, weights
from places import WRITABLE
from store_kit import CountingStore, FlakyStore
from versions import Versions

import p2u
from p2u.errors import ConflictError, IntegrityError, UsageError
from p2u.replication.mirror import MirrorProgress, mirror, push
from p2u.serve import make_server
from p2u.stores import LocalStore, open_store, open_writable
from p2u.stores.backoff import Retry

Place = Callable[[str], str]
FAST = Retry(0.001, 0.002, attempts=40)


@pytest.mark.parametrize("scheme", WRITABLE)
def test_there_and_back(scheme: str, place: Place, versions: Versions, tmp_path: Path) -> None:
    url = place(scheme)
    seen: list[MirrorProgress] = []
    result = push(versions.package, url, progress=seen.append)
    assert result.there == 0
    assert max(p.done for p in seen) == seen[0].total == result.bytes
    p2u.verify(url)
    again = push(versions.package, url)
    assert again.copied == 0
    back = tmp_path / "back"
    assert mirror(url, back).copied == result.copied
    assert content(back) == content(versions.package)  # the manifest, too
    p2u.verify(back)


@pytest.mark.parametrize("pair", [("s3", "oci"), ("oci", "hf"), ("hf", "az")])
def test_from_store_to_store(pair: tuple[str, str], place: Place, versions: Versions) -> None:
    first, second = map(place, pair)
    push(versions.package, first)
    with open_store(first) as source, open_writable(second) as target:
        mirror(FlakyStore(source, lambda key, start, n: n % 2 == 0), target, retry=FAST)
    p2u.verify(second)


def test_from_a_web_server(place: Place, versions: Versions) -> None:
    url = place("s3")
    with make_server(versions.package, quiet=True) as server:
        mirror(server.url, url)
    p2u.verify(url)


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_it_goes_on_where_it_was(
    scheme: str, place: Place, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place(scheme)
    with open_writable(url) as target:
        kind = type(target)
    real, count = kind.put, 0

    def mortal(self, key, content, *, tag=None):  # type: ignore[no-untyped-def]
        nonlocal count
        count += key != "p2u-unused.json"
        if count > 5:
            raise SystemExit
        real(self, key, content, tag=tag)

    monkeypatch.setattr(kind, "put", mortal)
    with pytest.raises(SystemExit):
        push(versions.package, url)
    with open_store(url) as store, pytest.raises(p2u.NotFoundError):
        store.read("p2u.json", limit=100)
    monkeypatch.setattr(kind, "put", real)
    source = CountingStore(LocalStore(versions.package))
    result = mirror(source, url)
    assert result.there == 5
    p2u.verify(url)


@pytest.mark.parametrize("remote", [False, True])
def test_one_flipped_bit_is_never_copied(
    remote: bool, place: Place, versions: Versions, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    mirror(versions.package, damaged)
    blob = max(damaged.rglob("*.bin"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 16
    blob.write_bytes(data)
    url = place("s3")
    with (
        make_server(damaged, quiet=True) as server,
        pytest.raises(IntegrityError, match=blob.name),
    ):
        mirror(server.url if remote else damaged, url)
    with open_writable(url) as store:
        assert store.find("p2u.json") is None
        key = blob.relative_to(damaged).as_posix()
        assert store.find(key) is None
    mirror(versions.package, url)
    p2u.verify(url)


def test_a_wrong_object_at_the_destination_is_left_alone(place: Place, versions: Versions) -> None:
    """It may be somebody's who is at work; the copy gets another key."""
    url = place("s3")
    key = next(p.relative_to(versions.package).as_posix() for p in versions.package.rglob("*.bin"))
    with open_writable(url) as store:
        store.put(key, b"of somebody else")
        push(versions.package, url)
        assert store.read(key, limit=100) == b"of somebody else"
    p2u.verify(url)


def test_versions_of_others_are_not_lost(place: Place, versions: Versions, tmp_path: Path) -> None:
    url = place("s3")
    push(versions.package, url)
    theirs = tmp_path / "theirs"
    shutil.copytree(versions.models["v3"], theirs)
    (theirs / "more.json").write_text("{}")
    p2u.publish(theirs, url, version="theirs")
    with pytest.raises(ConflictError, match="theirs"):
        push(versions.package, url)
    assert push(versions.package, url, replace=True).versions
    p2u.verify(url)


def test_an_update_is_copied_alone(place: Place, tmp_path: Path) -> None:
    url, package = place("oci"), tmp_path / "p"
    p2u.publish(model(tmp_path / "1", {"w": weights("F32", 80, 90)}), package)
    push(package, url)
    p2u.publish(model(tmp_path / "2", {"w": weights("F32", 80, 90, seed=2)}), package)
    first = len(list(package.rglob("*.bin")))
    result = push(package, url)
    assert result.there >= 3
    assert result.copied < first + 2
    p2u.pull(url, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(tmp_path / "2")


def test_push_is_from_this_machine() -> None:
    with pytest.raises(UsageError, match="p2u mirror"):
        push("s3://bucket/p", "s3://bucket/q")
