"""Content-addressed files: whole or absent, checked, bounded, and never the reader's problem."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from p2u.cache.objects import CachedObjects


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(objects: CachedObjects, *contents: bytes) -> list[str]:
    for data in contents:
        objects.put(digest(data), data)
    return [digest(data) for data in contents]


@pytest.fixture
def objects(tmp_path: Path) -> CachedObjects:
    return CachedObjects(tmp_path / "cache" / "objects", 10_000)


def aged(objects: CachedObjects, sha256: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(objects.path(sha256), (then, then))


def test_an_object_comes_back(objects: CachedObjects) -> None:
    one, empty = put(objects, b"one", b"")
    assert objects.has(one) and objects.read(one, 3) == b"one"
    assert objects.read(empty, 0) == b""
    assert not objects.has(digest(b"two")) and objects.read(digest(b"two"), 3) is None
    assert {(file.sha256, file.size) for file in objects.files()} == {(one, 3), (empty, 0)}


def test_what_was_changed_on_the_disk_is_not_given_out_and_goes(objects: CachedObjects) -> None:
    one, two, three = put(objects, b"one", b"two", b"three")
    objects.path(one).write_bytes(b"One")
    objects.path(two).write_bytes(b"tw")
    assert objects.read(one, 3) is None and not objects.has(one)
    assert {file.sha256: right for file, right in objects.verify()} == {two: False, three: True}
    assert not objects.has(two)


def test_links_and_devices_are_no_objects(objects: CachedObjects, tmp_path: Path) -> None:
    (name,) = put(objects, b"secret")
    objects.path(name).rename(tmp_path / "secret")
    objects.path(name).symlink_to(tmp_path / "secret")
    assert objects.read(name, 6) is None
    objects.path(name).unlink()
    os.mkfifo(objects.path(name))
    assert not list(objects.files())


def test_the_files_used_last_stay(objects: CachedObjects) -> None:
    names = put(objects, *(bytes([n]) * 1000 for n in range(8)))
    for number, name in enumerate(names):
        aged(objects, name, 1000 * (8 - number))
    descriptor = objects.open(names[0])  # used again
    assert descriptor is not None
    os.close(descriptor)
    assert objects.prune(limit=3000) == (5, 5000)
    assert [objects.has(name) for name in names] == [True, *[False] * 5, True, True]
    assert objects.prune(before=time.time() - 1500) == (1, 1000)
    assert objects.prune() == (0, 0)


def test_what_is_kept_stays_below_the_limit(objects: CachedObjects) -> None:
    put(objects, *(bytes([n]) * 900 for n in range(60)))
    assert sum(file.size for file in objects.files()) <= 10_000


def test_a_dead_writer_leaves_nothing_for_ever(objects: CachedObjects) -> None:
    (name,) = put(objects, b"one")
    part = objects.path(name).with_name("0123.part")
    part.write_bytes(b"half")
    assert [file.sha256 for file in objects.files()] == [name]
    objects.prune()
    assert part.exists(), "its writer may be alive"
    os.utime(part, (1, 1))
    objects.prune()
    assert not part.exists() and objects.has(name)


def test_a_full_disk_and_a_closed_folder_only_mean_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    closed = CachedObjects(tmp_path / "file" / "objects", 1000)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    full = CachedObjects(tmp_path / "objects", 1000)
    for objects, text in ((closed, "Not a directory"), (full, "disk is free")):
        with monkeypatch.context() as patch:
            if objects is full:
                patch.setattr(shutil, "disk_usage", lambda _: usage)
            (one, _) = put(objects, b"one", b"two")
        assert not objects.has(one)
        assert text in caplog.text and caplog.text.count("nothing more is kept") == 1
        caplog.clear()


def test_a_shared_cache_has_the_permissions_of_its_folder(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    objects = CachedObjects(shared / "objects", 1000)
    (name,) = put(objects, b"one")
    folder = objects.path(name).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2775
    assert objects.path(name).stat().st_mode & 0o444 == 0o444


def test_nothing_is_removed_behind_a_link(objects: CachedObjects, tmp_path: Path) -> None:
    """Who shares a cache can plant links and files in it."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ("0" * 62)).write_text("years of work")
    put(objects, b"one")
    (objects.folder / "ab").symlink_to(theirs)
    (objects.folder / digest(b"one")[:2] / "thesis.txt").write_text("mine")
    assert objects.prune(limit=0)[0] == 1
    assert (theirs / ("0" * 62)).exists()
    assert (objects.folder / digest(b"one")[:2] / "thesis.txt").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_nobody_waits_for_a_fifo(objects: CachedObjects) -> None:
    (name,) = put(objects, b"one")
    objects.path(name).unlink()
    os.mkfifo(objects.path(name))
    assert objects.open(name) is None
