"""Publishers of one package: they meet, they die, and the package stays what it was."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from manifests import manifest_of
from packing_kit import (
    Tensors,
    check_pull,
    model,
    moved,
)

from p2u import gc, pack, publish
from p2u.errors import BusyError, ConflictError, UsageError
from p2u.package.paths import MANIFEST_KEY
from p2u.packing.package_folder.open_package import OpenPackage
from p2u.stores.package_lock import NAME as LOCK


def test_two_publishers(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)})
    package = tmp_path / "p"
    pack(one, package)
    before = (package / MANIFEST_KEY).read_bytes()

    def other(_: object) -> None:
        with pytest.raises(BusyError, match="publishes to this package"):
            publish(two, package)
        with pytest.raises(BusyError):
            pack(one, package, replace=True)
        with pytest.raises(BusyError):
            gc(package)

    publish(two, package, progress=other)
    assert (package / MANIFEST_KEY).read_bytes() != before
    assert not (package / LOCK).exists()
    with pytest.raises(ConflictError, match="v2@exact"):
        publish(two, package, expect="v1@exact")
    publish(one, package, expect="v2@exact")


def test_a_manifest_that_changes_meanwhile(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)})
    package, other = tmp_path / "p", tmp_path / "q"
    pack(one, package)
    shutil.copytree(package, other)
    publish(two, other)
    theirs = (other / MANIFEST_KEY).read_bytes()

    def overwrite(progress: object) -> None:
        if getattr(progress, "phase", "") == "publish":
            (package / MANIFEST_KEY).write_bytes(theirs)

    with pytest.raises(ConflictError, match="replaced"):
        publish(two, package, progress=overwrite)
    assert (package / MANIFEST_KEY).read_bytes() == theirs
    assert not (package / "v2").exists()


def test_first_versions_of_two(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    package = tmp_path / "p"

    def other(progress: object) -> None:
        if not package.exists():
            publish(one, package, name="theirs")

    with pytest.raises(ConflictError):
        publish(one, package, name="ours", progress=other)
    assert manifest_of(package).name == "theirs"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "p"]


def test_locks_of_the_dead(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    package = tmp_path / "p"
    pack(one, package)
    lock = package / LOCK
    here = socket.gethostname()
    for pid, host, age in (
        (1, "the pod before", 60),
        (2**22 + 1, here, 1e9),
        (os.getpid(), here, 0),
    ):
        lock.write_text(json.dumps({"pid": pid, "host": host, "time": time.time() - age}))
        gc(package)
        assert not lock.exists()
    lock.write_text("")
    gc(package)


@pytest.mark.parametrize("moment", ["encode", "verify", "publish", "rename", "manifest"])
def test_a_publisher_that_dies(
    tmp_path: Path, first: Tensors, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = model(tmp_path / "1", first)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)})
    package = tmp_path / "p"
    pack(one, package)
    files = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}

    class DeadError(BaseException):
        pass

    def die(progress: object) -> None:
        if getattr(progress, "phase", "") == moment:
            raise DeadError

    # As a killed process: nothing of what would clean up is run.
    rename, replace = Path.rename, Path.replace
    exit_ = OpenPackage.__exit__

    def renamed(self: Path, target: Path) -> Path:
        done = rename(self, target)
        if moment == "rename" and self.name == ".p2u-stage":
            raise DeadError
        return done

    def replaced(self: Path, target: Path) -> Path:
        if moment == "manifest" and target.name == MANIFEST_KEY:
            raise DeadError
        return replace(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(OpenPackage, "__exit__", lambda self, *_: None)
    with pytest.raises(DeadError):
        publish(two, package, progress=die)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(OpenPackage, "__exit__", exit_)
    assert {path: path.read_bytes() for path in files} == files
    check_pull(package, one, tmp_path / "still")
    # The lock that was never let go belongs to a process that is no more.
    (package / LOCK).unlink()
    assert publish(two, package).version == "v2"
    check_pull(package, two, tmp_path / "then")
    assert {p.name for p in package.iterdir()} == {
        *(path.name for path in files), "v2"
    }  # fmt: skip


def test_a_package_that_is_full(tmp_path: Path, first: Tensors, monkeypatch) -> None:
    monkeypatch.setattr("p2u.package.keys.MAX_STATES", 4)
    for number in (1, 2):
        publish(model(tmp_path / str(number), first, config=f"{number}"), tmp_path / "p")
    three = model(tmp_path / "3", first, config="3")
    with pytest.raises(UsageError, match=r"5 states.*4 .*limits.*p2u gc"):
        publish(three, tmp_path / "p")
    assert [r.version for r in manifest_of(tmp_path / "p").releases] == ["v1", "v2"]
    assert not (tmp_path / "p" / "v3").exists()
