"""Faults of the store, of the package and of the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from dataclasses import replace

import kit
import pytest
from kit import QUICK, tree
from pulling import flip, pull_with
from store_kit import CountingStore, FlakyStore, WrapperStore

from p2u.client.folder.folder_transfer import FolderTransfer
from p2u.client.folder.pull import pull
from p2u.client.folder.space import SLACK
from p2u.client.transfer.requests import RequestSizes
from p2u.disk import durable, files
from p2u.errors import (
    DiskError,
    FormatError,
    IntegrityError,
    NotFoundError,
    P2UError,
    StoreError,
    UsageError,
)
from p2u.stores import LocalStore


@pytest.mark.parametrize("straight", [False, True])
def test_broken_connections_are_continued(made, tmp_path, straight):
    counting = CountingStore(LocalStore(made.package))
    # Straight, a request has three streams, which break together more often than one: many tries.
    store = FlakyStore(counting, lambda key, start, n: n % 7 == 1)
    patient = replace(QUICK, attempts=12)
    pull_with(store, tmp_path / "dst", retry=patient, straight=straight)
    assert made.label(tmp_path / "dst") == "exact"
    assert store.failures > 3


def test_a_dead_store_is_given_up_and_resumed_from_a_mirror(made, tmp_path):
    dst = tmp_path / "dst"
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n >= 8)
    with pytest.raises(StoreError, match="on purpose"):
        pull_with(store, dst, retry=QUICK, jobs=1)
    assert made.label(dst) in ("base", None)
    mirror = CountingStore(LocalStore(shutil.copytree(made.package, tmp_path / "mirror")))
    pull_with(mirror, dst)
    assert made.label(dst) == "exact"
    total = sum(update.bytes for update in made.manifest.updates)
    assert sum(taken for *_, taken in mirror.ranges) < total
    assert "layout.json.zst" not in mirror.reads  # cached, its digest checked


def test_retry_after_is_honoured(made, tmp_path):
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n == 0, retry_after=0.3)
    assert pull(store, tmp_path / "dst", retry=QUICK).seconds >= 0.3


class WholeStore(WrapperStore):
    """Learns with its first stream that there are no ranges."""

    ranges = True

    def __init__(self, store):
        super().__init__(store)
        self.streams: list[tuple[str, int, int]] = []

    @property
    def supports_ranges(self):
        return self.ranges

    def stream(self, key, start, length):
        self.streams.append((key, start, length))
        self.ranges = False
        return super().stream(key, start, length)


def test_without_ranges_each_blob_is_asked_for_about_once(made, tmp_path):
    store = WholeStore(LocalStore(made.package))
    pull_with(store, tmp_path / "dst", jobs=4, sizes=RequestSizes(1 << 14, 1 << 14))
    assert made.label(tmp_path / "dst") == "exact"
    keys = [key for key, *_ in store.streams]
    # The first request was a range; from then on whole blobs.
    assert keys == ["base-000.bin", "base-000.bin", "8bit-000.bin", "exact-000.bin"]
    assert [start for _, start, _ in store.streams[1:]] == [0, 0, 0]


class CorruptStore(WrapperStore):
    """Flips a bit in the first ``times`` streams that hold byte ``at`` of a blob."""

    def __init__(self, store, key, at, times):
        super().__init__(store)
        self.key, self.at, self.times = key, at, times
        self.lock = threading.Lock()

    def stream(self, key, start, length):
        for piece in super().stream(key, start, length):
            with self.lock:
                hit = key == self.key and start <= self.at < start + len(piece) and self.times
                self.times -= bool(hit)
            if hit:
                changed = bytearray(piece)
                changed[self.at - start] ^= 1
                piece = bytes(changed)
            start += len(piece)
            yield piece


def test_a_wrong_chunk_is_fetched_once_more(made, tmp_path):
    store = CorruptStore(LocalStore(made.package), "8bit-000.bin", 5000, times=1)
    pull(store, tmp_path / "dst")
    assert made.label(tmp_path / "dst") == "exact"
    assert store.times == 0


def test_a_chunk_that_stays_wrong_is_refused(made, tmp_path):
    store = CorruptStore(LocalStore(made.package), "8bit-000.bin", 5000, times=2)
    with pytest.raises(IntegrityError, match=r"8bit-000\.bin.*chunk \d+.*SHA-256"):
        pull(store, tmp_path / "dst", straight=False)
    assert made.label(tmp_path / "dst") == "base"


@pytest.mark.parametrize("start", [None, "base"])
def test_flipped_bits_anywhere(made, package, tmp_path, start):
    """A flipped bit in any file of the package: our error, and no file of a wrong content."""
    rng = kit.random.Random(5)
    for file in sorted(package.iterdir()):
        good = file.read_bytes()
        for at in [0, len(good) - 1, *rng.sample(range(len(good)), 2)]:
            dst = tmp_path / "dst"
            if start:
                shutil.copytree(made.states[start], dst)
            file.write_bytes(good)
            flip(file, at)
            if file.name == "p2u.json":
                # The manifest has no hash of its own; most flips break it, some do not matter.
                with contextlib.suppress(P2UError):
                    pull(package, dst)
            elif start and file.name.startswith("base"):
                pull(package, dst)
            else:
                with pytest.raises((IntegrityError, FormatError)):
                    pull(package, dst)
            assert not dst.exists() or made.label(dst) is not None
            shutil.rmtree(dst, ignore_errors=True)
            shutil.rmtree(tmp_path / ".dst.p2u", ignore_errors=True)
        file.write_bytes(good)


def test_truncated_files(made, package, tmp_path):
    for file in sorted(package.iterdir()):
        good = file.read_bytes()
        for length in (0, 1, len(good) // 2, len(good) - 1):
            if file.name == "p2u.json" and length == len(good) - 1:
                continue  # the newline at its end
            file.write_bytes(good[:length])
            with pytest.raises(P2UError):
                pull(package, tmp_path / "dst", retry=QUICK)
            assert made.label(tmp_path / "dst") in (None, "base", "8bit")
            shutil.rmtree(tmp_path / "dst", ignore_errors=True)
            shutil.rmtree(tmp_path / ".dst.p2u", ignore_errors=True)
        file.write_bytes(good)


def test_not_there(tmp_path):
    with pytest.raises(NotFoundError):
        pull(tmp_path / "nothing", tmp_path / "dst")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError):
        pull(tmp_path / "empty", tmp_path / "dst")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]


def test_unknown_state(made, tmp_path):
    with pytest.raises(UsageError, match="base, 8bit, exact"):
        pull(made.package, tmp_path / "dst", until="4bit")


def test_a_manifest_that_lies_about_a_file(made, package, tmp_path, monkeypatch):
    """Every chunk is right, and the result is not what the manifest states."""
    from dataclasses import replace

    from p2u.package.manifest import state_digest

    manifest = made.manifest
    number = next(n for n, f in enumerate(manifest.latest.files) if len(f.sha256) == 3)
    files = list(manifest.latest.files)
    files[number] = replace(files[number], sha256=(*files[number].sha256[:2], "0" * 64))
    states = [
        replace(s, digest=state_digest((f.path, f.size, f.digest(n)) for f in files))
        for n, s in enumerate(manifest.states)
    ]
    release = replace(manifest.latest, files=tuple(files), states=tuple(states))
    lie = replace(manifest, releases=(release,))
    (package / "p2u.json").write_bytes(lie.to_bytes())
    for _ in range(2):
        with pytest.raises(IntegrityError, match=files[number].path):
            pull(package, tmp_path / "dst")
        assert made.label(tmp_path / "dst") == "8bit"


def test_too_little_space_is_said_first(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    size = sum(f.size for f in made.manifest.latest.files)
    store = CountingStore(LocalStore(made.package))
    free = SLACK + size // 2
    with pytest.raises(DiskError, match=r"MiB of free space are needed.*--in-place, which needs"):
        pull_with(store, dst, free_bytes=lambda path: free)
    with pytest.raises(DiskError, match=r"needed.*another disk$"):  # where that would not do either
        pull_with(made.package, dst, free_bytes=lambda path: SLACK)
    with pytest.raises(DiskError, match=r"needed.*another disk$"):  # from nothing
        pull_with(made.package, tmp_path / "new", free_bytes=lambda path: free)
    assert store.ranges == []
    assert pull(made.package, dst, dry_run=True).plan.disk > free
    planned = pull_with(made.package, dst, dry_run=True, in_place=True).plan.disk
    assert planned <= free
    pull_with(made.package, dst, free_bytes=lambda path: planned, in_place=True)
    assert tree(dst) == tree(made.model)


@pytest.mark.parametrize("free", [0, 100_000, 1 << 30])
def test_in_place_takes_what_a_chunk_takes(made, tmp_path, monkeypatch, free):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    real, seen = durable.write_file, []

    def write_file(path, *parts, **options):
        real(path, *parts, **options)
        sizes = []
        for file in path.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another thread makes room
                sizes.append(file.stat().st_size)
        seen.append(sum(sizes))

    monkeypatch.setattr(durable, "write_file", write_file)
    monkeypatch.setattr(FolderTransfer, "_check_disk", lambda *_: None)
    pull_with(made.package, dst, in_place=True, jobs=4, free_bytes=lambda path: free)
    assert tree(dst) == tree(made.model)
    largest = 4 * kit.CHUNK + 4
    assert 0 < max(seen) <= max(free // 2 + 4 * len(seen), largest)
    assert (max(seen) > 10 * largest) == (free == 1 << 30)


@pytest.mark.parametrize("in_place", [False, True])
def test_disk_full_on_the_way(made, tmp_path, monkeypatch, in_place):
    dst = tmp_path / "dst"
    pull_with(made.package, dst, until="base")
    real, count = files.write_at, [0]

    def write_at(file, offset, data):
        count[0] += 1
        if count[0] > 20:
            real(file, offset, memoryview(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        real(file, offset, data)

    monkeypatch.setattr(files, "write_at", write_at)
    with pytest.raises(DiskError, match=r"No space left.*Free some space"):
        pull_with(made.package, dst, in_place=in_place)
    if not in_place:
        assert made.label(dst) == "base"
    monkeypatch.setattr(files, "write_at", real)
    store = CountingStore(LocalStore(made.package))
    pull_with(store, dst, in_place=in_place)
    assert tree(dst) == tree(made.model)
    missing = made.update("8bit").bytes + made.update("exact").bytes
    assert 0 < sum(taken for *_, taken in store.ranges) < missing


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(made, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(DiskError, match="permission"):
        pull(made.package, tmp_path / "closed" / "dst")


def test_the_target_below_a_file(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        pull(made.package, tmp_path / "file" / "dst")
