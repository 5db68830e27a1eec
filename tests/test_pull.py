"""Pulling to disk: states, resuming, faults, and what must not be touched."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import kit
import pytest
from kit import STATES, Made, tree
from stores.helpers import CountingStore, FlakyStore, WrapperStore

import p2u
from p2u import _exchange
from p2u._client import engine
from p2u._client.fetch import Retry
from p2u._client.workdir import WorkDir
from p2u.errors import (
    BusyError,
    DiskError,
    FormatError,
    IntegrityError,
    NotFoundError,
    P2UError,
    StoreError,
    UsageError,
)
from p2u.pull import pull
from p2u.stores import LocalStore
from p2u.verify import verify

QUICK = Retry(attempts=4, base=0.001, cap=0.002)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return kit.make(tmp_path_factory.mktemp("pull"))


@pytest.fixture
def package(made, tmp_path) -> Path:
    """A copy of the package, to be damaged."""
    return Path(shutil.copytree(made.package, tmp_path / "copy"))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".p2u")]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("in_place", [False, True])
def test_all_states_come_one_after_the_other(made, tmp_path, in_place):
    dst = tmp_path / "deep" / "dst"
    seen = []

    def on_state(label):
        seen.append((label, made.label(dst)))

    result = pull(made.package, dst, in_place=in_place, on_state=on_state)
    assert seen == [(label, label) for label in STATES]
    assert result.state == "exact"
    assert tree(dst) == tree(made.model)
    assert leftovers(dst.parent) == []


@pytest.mark.parametrize("in_place", [False, True])
def test_one_state_at_a_time(made, tmp_path, in_place):
    dst = tmp_path / "dst"
    for label in STATES:
        store = CountingStore(LocalStore(made.package))
        pull(store, dst, until=label, in_place=in_place)
        assert made.label(dst) == label
        size = made.update(label).bytes
        assert sum(taken for *_, taken in store.ranges) == size


def test_base_directory_loads_as_it_is(made, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    loaded = safetensors.load_file(made.states["base"] / "model-00001-of-00002.safetensors")
    exact = safetensors.load_file(made.model / "model-00001-of-00002.safetensors")
    w, e = loaded["layers.0.w"], exact["layers.0.w"]
    assert (w != e).any()
    assert ((w - e) ** 2).sum() < 0.05 * (e**2).sum()
    assert (loaded["layers.0.norm"] == exact["layers.0.norm"]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="needs an exchange of folders")
def test_readers_see_whole_states_at_any_time(made, tmp_path):
    """A folder, once opened, is one state as a whole; by path, there is never a moment without."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    digests = {
        tuple(f.digest(n) for f in made.manifest.files): state.label
        for n, state in enumerate(made.manifest.states)
    }
    ended = threading.Event()
    seen: list[str | None] = []

    def read():
        while not ended.is_set():
            folder = os.open(dst, os.O_RDONLY)
            try:
                found = []
                for file in made.manifest.files:
                    with open(os.open(file.path, os.O_RDONLY, dir_fd=folder), "rb") as opened:
                        found.append(hashlib.sha256(opened.read()).hexdigest())
                seen.append(digests.get(tuple(found), "no state"))
            except FileNotFoundError:
                # The folder was retired while we read: what a path leads to now is whole.
                seen.append(None)
            finally:
                os.close(folder)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        size = sum(made.update(label).bytes for label in ("8bit", "exact"))
        pull(made.package, dst, limit_rate=1.5 * size)
    finally:
        ended.set()
        reader.join()
    assert set(seen) - {None} == {"base", "8bit"} | (set(seen) & {"exact"})
    assert seen.count(None) <= 2


def test_again_does_nothing(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="8bit")
    before = {path: path.stat().st_mtime_ns for path in dst.rglob("*")}
    for until in ("8bit", "base"):
        store = CountingStore(LocalStore(made.package))
        seen: list[str] = []
        assert pull(store, dst, until=until, on_state=seen.append).state == "8bit"
        assert (store.reads, store.ranges, seen) == (["p2u.json"], [], ["8bit"])
    assert before == {path: path.stat().st_mtime_ns for path in dst.rglob("*")}


def test_again_does_not_hash(made, tmp_path, monkeypatch):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    monkeypatch.setattr("p2u._client.local.hash_file", lambda *_: pytest.fail("hashed"))
    pull(made.package, dst)


def test_touched_files_are_hashed_once(made, tmp_path, monkeypatch):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    os.utime(dst / "config.json", (1, 1))
    pull(made.package, dst)
    monkeypatch.setattr("p2u._client.local.hash_file", lambda *_: pytest.fail("hashed"))
    pull(made.package, dst)


def test_a_copy_without_the_state_file_is_recognised(made, tmp_path):
    dst = tmp_path / "dst"
    shutil.copytree(made.states["8bit"], dst)
    (dst / ".p2u-state.json").unlink()
    store = CountingStore(LocalStore(made.package))
    pull(store, dst)
    assert tree(dst) == tree(made.model)
    assert {key for key, *_ in store.ranges} == {"exact-000.bin"}


def test_the_publishers_own_directory_is_left_alone(made, tmp_path):
    dst = Path(shutil.copytree(made.model, tmp_path / "dst"))
    assert pull(made.package, dst).state == "exact"
    assert sorted(p.name for p in dst.iterdir()) == sorted(p.name for p in made.model.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
def test_other_files_stay(made, tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(_exchange, "exchange", lambda *_: False)
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "notes").mkdir()
    (dst / "notes" / "mine.txt").write_text("mine")
    (dst / "void").mkdir()
    (dst / "1_Pooling" / "mine.txt").write_text("mine too")
    (dst / "link").symlink_to("notes")
    dst.chmod(0o750)
    pull(made.package, dst)
    assert made.label(dst) == "exact"
    assert (dst / "notes" / "mine.txt").read_text() == "mine"
    assert (dst / "1_Pooling" / "mine.txt").read_text() == "mine too"
    assert (dst / "void").is_dir()
    assert (dst / "link").readlink() == Path("notes")
    assert dst.stat().st_mode & 0o777 == 0o750
    assert leftovers(tmp_path) == []


def test_an_empty_folder_is_taken(made, tmp_path):
    dst = tmp_path / "dst"
    dst.mkdir()
    pull(made.package, dst)
    assert made.label(dst) == "exact"


def test_a_link_to_the_target_is_followed(made, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "dst").symlink_to("real")
    pull(made.package, tmp_path / "dst")
    assert (tmp_path / "dst").is_symlink()
    assert made.label(tmp_path / "real") == "exact"


@pytest.mark.parametrize("content", ["other", "partial", "file", "foreign"])
def test_a_folder_that_is_not_ours_is_not_touched(made, tmp_path, content):
    dst = tmp_path / "dst"
    if content == "file":
        dst.write_text("mine")
    elif content == "foreign":
        shutil.copytree(made.states["base"], dst)
        path = dst / ".p2u-state.json"
        path.write_text(path.read_text().replace('"name": "model"', '"name": "other"'))
    else:
        dst.mkdir()
        (dst / "config.json").write_text("mine" if content == "other" else '{"model_type": "test"}')
    before = dst.read_bytes() if dst.is_file() else tree(dst)
    with pytest.raises(UsageError, match="dst"):
        pull(made.package, dst)
    assert before == (dst.read_bytes() if dst.is_file() else tree(dst))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]


def test_changed_files_are_not_overwritten_unless_asked(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "config.json").write_text("edited")
    with pytest.raises(UsageError, match=r"config\.json.*changed or damaged.*repair"):
        pull(made.package, dst)
    assert (dst / "config.json").read_text() == "edited"
    pull(made.package, dst, repair=True)
    assert tree(dst) == tree(made.model)


def test_missing_files_are_fetched_again(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    (dst / "model-00002-of-00002.safetensors").unlink()
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)


def test_a_hostile_state_file_is_refused(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    path = dst / ".p2u-state.json"
    state = json.loads(path.read_text())
    state["files"][0][0] = "../../outside"
    path.write_text(json.dumps(state))
    with pytest.raises(FormatError):
        pull(made.package, dst)
    path.write_text("{")
    with pytest.raises(FormatError, match="Remove it"):
        pull(made.package, dst)


# --- faults of the store


def test_broken_connections_are_continued(made, tmp_path):
    counting = CountingStore(LocalStore(made.package))
    store = FlakyStore(counting, lambda key, start, n: n % 3 == 1)
    pull(store, tmp_path / "dst", retry=QUICK)
    assert made.label(tmp_path / "dst") == "exact"
    assert store.failures > 3


@pytest.mark.usefixtures("small_requests")
def test_a_dead_store_is_given_up_and_resumed_from_a_mirror(made, tmp_path):
    dst = tmp_path / "dst"
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n >= 8)
    with pytest.raises(StoreError, match="on purpose"):
        pull(store, dst, retry=QUICK, jobs=1)
    assert made.label(dst) in ("base", None)
    mirror = CountingStore(LocalStore(shutil.copytree(made.package, tmp_path / "mirror")))
    pull(mirror, dst)
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


def test_without_ranges_each_blob_is_asked_for_about_once(made, tmp_path, monkeypatch):
    monkeypatch.setattr("p2u.plan.MAX_REQUEST", 1 << 14)
    monkeypatch.setattr("p2u.plan.MIN_REQUEST", 1 << 14)
    store = WholeStore(LocalStore(made.package))
    pull(store, tmp_path / "dst", jobs=4)
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
        pull(store, tmp_path / "dst")
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

    from p2u.manifest import state_digest

    manifest = made.manifest
    number = next(n for n, f in enumerate(manifest.files) if len(f.sha256) == 3)
    files = list(manifest.files)
    files[number] = replace(files[number], sha256=(*files[number].sha256[:2], "0" * 64))
    states = [
        replace(s, digest=state_digest((f.path, f.size, f.digest(n)) for f in files))
        for n, s in enumerate(manifest.states)
    ]
    lie = replace(manifest, files=tuple(files), states=tuple(states))
    (package / "p2u.json").write_bytes(lie.to_bytes())
    for _ in range(2):
        with pytest.raises(IntegrityError, match=files[number].path):
            pull(package, tmp_path / "dst")
        assert made.label(tmp_path / "dst") == "8bit"


# --- resuming


def interrupted(made: Made, dst: Path, requests: int, **options) -> None:
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n >= requests)
    with pytest.raises(StoreError):
        pull(store, dst, retry=QUICK, jobs=1, **options)


@pytest.fixture
def small_requests(monkeypatch):
    monkeypatch.setattr("p2u.plan.MIN_REQUEST", 1)
    monkeypatch.setattr("p2u.plan.MAX_REQUEST", 1)


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("in_place", [False, True])
def test_what_was_damaged_meanwhile_is_fetched_again(made, tmp_path, in_place):
    """Resuming does not trust the work folder: bytes, journal, cache."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 8, in_place=in_place)
    work = WorkDir(dst.resolve())
    for file in work.cache.iterdir():
        flip(file, 3)
    shard = (dst if in_place else work.next) / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    for at in range(2000, len(data), 9000):
        data[at] ^= 0xFF
    shard.write_bytes(data)
    shutil.rmtree(work.redo, ignore_errors=True)
    pull(made.package, dst, in_place=in_place)
    assert tree(dst) == tree(made.model)
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("cut", [0, 1, 71, 72, 80, -1])
def test_a_torn_journal(made, tmp_path, cut):
    dst = tmp_path / "dst"
    interrupted(made, dst, 8)
    journal = WorkDir(dst.resolve()).journal
    journal.write_bytes(journal.read_bytes()[:cut])
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)


@pytest.mark.usefixtures("small_requests")
def test_garbage_in_the_journal(made, tmp_path):
    dst = tmp_path / "dst"
    rng = kit.random.Random(3)
    for _ in range(5):
        interrupted(made, dst, 8)
        journal = WorkDir(dst.resolve()).journal
        flip(journal, rng.randrange(journal.stat().st_size))
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)


@pytest.mark.usefixtures("small_requests")
def test_another_package_in_the_work_folder(made, tmp_path):
    """Packed otherwise: the numbers of its chunks mean something else."""
    other = tmp_path / "other.pkg"
    p2u.pack(made.model, other, bits=2.5, name="model", levels=("base", "exact"))
    dst = tmp_path / "dst"
    interrupted(made, dst, 8)
    pull(other, dst)
    assert tree(dst) == tree(made.model)


def test_a_package_that_was_packed_anew_replaces_the_former(made, tmp_path):
    other = tmp_path / "other.pkg"
    p2u.pack(made.model, other, bits=2.5, name="model")
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    pull(other, dst)
    assert tree(dst) == tree(made.model)


@pytest.mark.usefixtures("small_requests")
def test_asking_for_less_keeps_what_was_fetched_of_more(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 8)
    pull(made.package, dst, until="base")
    store = CountingStore(LocalStore(made.package))
    pull(store, dst, until="8bit")
    assert 0 < sum(taken for *_, taken in store.ranges) < made.update("8bit").bytes
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("first", [False, True])
def test_the_mode_may_change_on_the_way(made, tmp_path, first):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 8, in_place=first)
    assert (made.label(dst) == "base") != first
    pull(made.package, dst, in_place=not first)
    assert tree(dst) == tree(made.model)
    assert leftovers(tmp_path) == []


def test_in_place_refuses_links(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    os.link(dst / "model-00001-of-00002.safetensors", tmp_path / "second-name")
    with pytest.raises(UsageError, match="link"):
        pull(made.package, dst, in_place=True)
    assert made.label(dst) == "base"
    pull(made.package, dst)
    assert made.label(dst) == "exact"


@pytest.mark.usefixtures("small_requests")
def test_a_directory_half_refined_is_not_verified(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 8, in_place=True)
    with pytest.raises(IntegrityError, match="refined in place"):
        verify(dst)


# --- local faults


def test_two_at_once(made, tmp_path):
    dst = tmp_path / "dst"
    work = WorkDir(dst.resolve())
    work.acquire()
    with pytest.raises(BusyError, match="another process"):
        pull(made.package, dst)
    work.release(remove=True)
    pull(made.package, dst)


def test_a_lock_left_behind_is_taken_over(made, tmp_path):
    (tmp_path / ".dst.p2u").mkdir()
    (tmp_path / ".dst.p2u" / "lock").write_text("99999999")
    pull(made.package, tmp_path / "dst")
    assert leftovers(tmp_path) == []


def test_too_little_space_is_said_first(made, tmp_path, monkeypatch):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    size = sum(f.size for f in made.manifest.files)
    monkeypatch.setattr(engine, "free_bytes", lambda path: size // 2)
    store = CountingStore(LocalStore(made.package))
    with pytest.raises(DiskError, match=r"MiB of free space are needed.*--in-place"):
        pull(store, dst)
    assert store.ranges == []
    assert pull(made.package, dst, dry_run=True).plan.disk > size // 2


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("in_place", [False, True])
def test_disk_full_on_the_way(made, tmp_path, monkeypatch, in_place):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    module = sys.modules[f"p2u._client.{'inplace' if in_place else 'beside'}"]
    real, count = module.write_at, [0]

    def write_at(file, offset, data):
        count[0] += 1
        if count[0] > 12:
            real(file, offset, memoryview(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        real(file, offset, data)

    monkeypatch.setattr(module, "write_at", write_at)
    with pytest.raises(DiskError, match=r"No space left.*Free some space"):
        pull(made.package, dst, in_place=in_place)
    if not in_place:
        assert made.label(dst) == "base"
    monkeypatch.setattr(module, "write_at", real)
    store = CountingStore(LocalStore(made.package))
    pull(store, dst, in_place=in_place)
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


def test_ctrl_c_keeps_what_is_there(made, tmp_path):
    dst = tmp_path / "dst"

    def progress(p):
        if p.state == "base":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(made.package, dst, progress=progress, limit_rate=1e6)
    assert made.label(dst) == "base"
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]
    pull(made.package, dst)
    assert made.label(dst) == "exact"


# --- reports


def test_dry_run_changes_nothing(made, tmp_path):
    dst = tmp_path / "dst"
    result = pull(made.package, dst, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert result.state is None
    assert [step.state for step in result.plan.steps] == list(STATES)
    assert result.plan.missing == sum(u.bytes + u.index.size for u in made.manifest.updates)
    pull(made.package, dst, until="8bit")
    plan = pull(made.package, dst, dry_run=True, in_place=True).plan
    assert (plan.here, [(s.state, s.in_place) for s in plan.steps]) == ("8bit", [("exact", True)])
    assert pull(made.package, dst, until="base", dry_run=True).plan.steps == ()


@pytest.mark.usefixtures("small_requests")
def test_dry_run_knows_what_is_here_already(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 8)
    step = pull(made.package, dst, dry_run=True).plan.steps[0]
    assert 0 < step.missing < step.bytes


def test_progress_ends_at_its_total(made, tmp_path):
    seen = []
    pull(made.package, tmp_path / "dst", progress=seen.append)
    last = seen[-1]
    assert last.done == last.total == last.marks[-1][1] == made.manifest.states[-1].bytes
    assert [label for label, _ in last.marks] == list(STATES)
    assert [at for _, at in last.marks] == [s.bytes for s in made.manifest.states]
    assert all(a.done <= b.done for a, b in itertools.pairwise(seen))


def test_limit_rate(made, tmp_path):
    size = made.manifest.states[0].bytes
    result = pull(made.package, tmp_path / "dst", until="base", limit_rate=2.0 * size)
    assert 0.4 < result.seconds < 2


def test_a_deadline_far_off_changes_nothing(made, tmp_path):
    assert pull(made.package, tmp_path / "dst", deadline=60).state == "exact"


@pytest.mark.parametrize("in_place", [False, True])
def test_a_deadline_gives_the_best_state_that_can_be_here_by_then(made, tmp_path, in_place):
    """A link on which the 8bit state takes one second and exact three more."""
    dst = tmp_path / "dst"
    base, middle, last = (state.bytes for state in made.manifest.states)
    rate = min(float(middle), (last - middle) / 3)
    result = pull(made.package, dst, deadline=middle / rate + 0.5, limit_rate=rate)
    assert result.state == made.label(dst) == "8bit"
    assert result.seconds < middle / rate + 1
    # At once the base, however late it is.
    assert pull(made.package, tmp_path / "b", deadline=0.01, limit_rate=3.0 * base).state == "base"
    # No deadline: the rest.
    assert pull(made.package, dst, in_place=in_place).state == "exact"


def test_what_the_deadline_cut_off_is_kept(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="8bit")
    size = made.update("exact").bytes
    # Nothing is measured yet when it begins, so it tries.
    assert pull(made.package, dst, deadline=0.6, limit_rate=size / 1.2).state == "8bit"
    result = pull(made.package, dst)
    assert made.label(dst) == "exact"
    assert result.fetched < 0.9 * size


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_impossible_deadlines(made, tmp_path, deadline):
    with pytest.raises(UsageError, match="deadline"):
        pull(made.package, tmp_path / "dst", deadline=deadline)


@pytest.mark.parametrize("jobs", [1, 3])
def test_over_http(made, tmp_path, jobs):
    server, app = kit.counting_server(made.package)
    with server:
        result = pull(server.url, tmp_path / "dst", jobs=jobs)
        assert made.label(tmp_path / "dst") == "exact"
        assert result.fetched == app.sent
        app.reset()
        pull(server.url, tmp_path / "dst")
        assert app.paths == ["/p2u.json"]


def test_memory_stays_small(tmp_path):
    """Peak memory of a pull of 32 MiB: far below the model's size, no matter how many threads."""
    model = tmp_path / "model.safetensors"
    kit.write_safetensors(
        model,
        [(f"w{i}", "F32", (1024, 1024), kit.floats(1 << 14, "F32", i) * 64) for i in range(8)],
    )
    p2u.pack(model, tmp_path / "pkg", levels=("base", "exact"))
    code = "import sys, p2u; p2u.pull(sys.argv[1], sys.argv[2], jobs=8)"
    code += "; assert 'numpy' not in sys.modules"
    peak = int(kit.run_python(code + kit.PRINT_PEAK, tmp_path / "pkg", tmp_path / "dst"))
    assert peak < (4 << 20) + (64 << 20)
    assert (tmp_path / "dst" / "model.safetensors").read_bytes() == model.read_bytes()


# --- verify


def test_verify_a_package(made):
    report = verify(made.package, decode=True)
    assert (report.kind, report.states, report.decoded) == ("package", STATES, True)
    assert report.chunks == sum(u.chunks for u in made.manifest.updates)
    assert report.bytes == sum(p.stat().st_size for p in made.package.iterdir())


def test_verify_finds_a_flipped_bit_in_every_file(package):
    for file in sorted(package.iterdir()):
        flip(file, file.stat().st_size // 2)
        with pytest.raises(P2UError):
            verify(package)
        flip(file, file.stat().st_size // 2)
    verify(package)


def test_verify_a_directory(made, tmp_path):
    dst = Path(shutil.copytree(made.states["8bit"], tmp_path / "dst"))
    assert verify(dst).states == ("8bit",)
    flip(dst / "model-00002-of-00002.safetensors", 5000)
    with pytest.raises(IntegrityError, match="model-00002"):
        verify(dst)
    (dst / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        verify(dst)


def test_verify_what_is_neither(tmp_path):
    with pytest.raises(UsageError, match="neither"):
        verify(tmp_path)
    with pytest.raises(NotFoundError):
        verify(tmp_path / "nothing")
