"""A new package takes the place of an older one in one step, also when several are made at once."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from packing_kit import check_exact, decode, manifest_of, model, weights

from p2u import gc, pack, publish
from p2u.disk import swap
from p2u.errors import BusyError, ConflictError, DiskError
from p2u.package.paths import MANIFEST_KEY
from p2u.packing.package_folder.new_package import NewPackage
from p2u.stores.package_lock import NAME as LOCK


def fill(place: NewPackage, name: str) -> None:
    (place.path / MANIFEST_KEY).write_text(name)
    (place.path / "sub").mkdir()
    (place.path / "sub" / "blob").write_text(name)


@pytest.fixture(params=[True, False])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system can exchange folders."""
    if not request.param:
        monkeypatch.setattr(swap, "exchange", lambda *_: False)
    return request.param


@pytest.mark.usefixtures("exchange")
def test_an_older_one_gives_way(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with NewPackage(tmp_path / "p") as place:
            fill(place, name)
            place.publish()
        assert (tmp_path / "p" / MANIFEST_KEY).read_text() == name
        assert [p.name for p in tmp_path.iterdir()] == ["p"]
    with pytest.raises(ConflictError), NewPackage(tmp_path / "p", replace=False) as place:
        fill(place, "three")
        place.publish()
    assert (tmp_path / "p" / MANIFEST_KEY).read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_the_second_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "exchange", lambda *_: False)
    with NewPackage(tmp_path / "p") as place:
        fill(place, "one")
        place.publish()
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".packing":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DiskError), NewPackage(tmp_path / "p") as place:
        fill(place, "two")
        place.publish()
    assert (tmp_path / "p" / "sub" / "blob").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="needs an exchange of folders")
def test_two_publishers_swapping(tmp_path: Path) -> None:
    """Whoever looks finds a whole package of one of them, and in the end nothing is left over."""
    target = tmp_path / "p"

    def make(name: str, count: int) -> None:
        for _ in range(count):
            with NewPackage(target) as place:
                fill(place, name)
                place.publish()

    make("0", 1)
    ended, seen, lost = threading.Event(), set(), []

    def look() -> None:
        while not ended.is_set():
            try:
                seen.add((target / MANIFEST_KEY).read_text())
            except FileNotFoundError:
                lost.append(not target.exists())

    threads = [threading.Thread(target=make, args=(name, 30)) for name in "12"]
    reader = threading.Thread(target=look)
    reader.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ended.set()
    reader.join(60)
    assert not any(lost)  # a file may be gone with the folder that we were in, its path never is
    assert seen <= {"0", "1", "2"}
    assert (target / MANIFEST_KEY).read_text() == (target / "sub" / "blob").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced there")
def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    one = model(tmp_path / "1", {"w": weights("BF16", 64, 128)})
    two = model(tmp_path / "2", {"w": weights("BF16", 64, 128, seed=1)})
    pack(one, tmp_path / "p")
    check_exact(decode(tmp_path / "p"), one)
    publish(two, tmp_path / "p")
    assert [r.version for r in manifest_of(tmp_path / "p").releases] == ["v1", "v2"]


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL"])
def test_publishing_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(fcntl, "flock", flock)
    one = model(tmp_path / "1", {"w": weights("BF16", 64, 128)})
    two = model(tmp_path / "2", {"w": weights("BF16", 64, 128, seed=1)})
    package = tmp_path / "p"
    pack(one, package)
    met = []

    def other(_: object) -> None:
        with pytest.raises(BusyError, match="publishes to this package") as caught:
            gc(package)
        met.append(caught.value)

    publish(two, package, progress=other)
    assert met
    assert LOCK in str(met[0].hint)
    assert [r.version for r in manifest_of(package).releases] == ["v1", "v2"]
    assert not (package / LOCK).exists()
