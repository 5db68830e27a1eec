"""Going on where a pull ended: what the work folder says is checked, not trusted."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import kit
import pytest
from kit import tree
from pulling import flip, interrupted, leftovers, pull_with
from store_kit import CountingStore

import p2u
from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.client.folder.work_folder import WorkFolder
from p2u.errors import BusyError, IntegrityError, UsageError
from p2u.stores import LocalStore


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_was_damaged_meanwhile_is_fetched_again(made, tmp_path, in_place, straight):
    """Resuming does not trust the work folder: bytes, journal, cache."""
    dst = tmp_path / "dst"
    pull_with(made.package, dst, until="base")
    interrupted(made, dst, 16, in_place=in_place, straight=straight)
    work = WorkFolder(dst.resolve())
    for file in work.cache.iterdir():
        flip(file, 3)
    shard = (dst if in_place else work.next) / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    for at in range(2000, len(data), 9000):
        data[at] ^= 0xFF
    shard.write_bytes(data)
    shutil.rmtree(work.redo, ignore_errors=True)
    pull_with(made.package, dst, in_place=in_place)
    assert tree(dst) == tree(made.model)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("cut", [0, 1, 71, 72, 80, -1])
def test_a_torn_journal(made, tmp_path, cut):
    dst = tmp_path / "dst"
    interrupted(made, dst, 8)
    journal = WorkFolder(dst.resolve()).journal
    journal.write_bytes(journal.read_bytes()[:cut])
    pull_with(made.package, dst)
    assert tree(dst) == tree(made.model)


def test_garbage_in_the_journal(made, tmp_path):
    dst = tmp_path / "dst"
    rng = kit.random.Random(3)
    for _ in range(5):
        interrupted(made, dst, 8)
        journal = WorkFolder(dst.resolve()).journal
        flip(journal, rng.randrange(journal.stat().st_size))
    pull_with(made.package, dst)
    assert tree(dst) == tree(made.model)


def test_another_package_in_the_work_folder(made, tmp_path):
    """Packed otherwise: the numbers of its chunks mean something else."""
    other = tmp_path / "other.pkg"
    p2u.pack(made.model, other, bits=2.5, name="model", levels=("base", "exact"))
    dst = tmp_path / "dst"
    interrupted(made, dst, 8)
    pull_with(other, dst)
    assert tree(dst) == tree(made.model)


def test_a_package_that_was_packed_anew_replaces_the_former(made, tmp_path):
    other = tmp_path / "other.pkg"
    p2u.pack(made.model, other, bits=2.5, name="model")
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    pull(other, dst)
    assert tree(dst) == tree(made.model)


def test_asking_for_less_keeps_what_was_fetched_of_more(made, tmp_path):
    dst = tmp_path / "dst"
    pull_with(made.package, dst, until="base")
    interrupted(made, dst, 8)
    pull_with(made.package, dst, until="base")
    store = CountingStore(LocalStore(made.package))
    pull_with(store, dst, until="8bit", straight=False)
    assert 0 < sum(taken for *_, taken in store.ranges) < made.update("8bit").bytes
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("first", [False, True])
def test_the_mode_may_change_on_the_way(made, tmp_path, first):
    dst = tmp_path / "dst"
    pull_with(made.package, dst, until="base")
    interrupted(made, dst, 8, in_place=first)
    assert (made.label(dst) == "base") != first
    pull_with(made.package, dst, in_place=not first)
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


def test_a_directory_half_refined_is_not_verified(made, tmp_path):
    dst = tmp_path / "dst"
    pull_with(made.package, dst, until="base")
    interrupted(made, dst, 8, in_place=True)
    with pytest.raises(IntegrityError, match="refined in place"):
        verify(dst)


@pytest.fixture(params=[True, False])
def locks(request, monkeypatch) -> bool:
    """Whether the file system has locks."""
    if not request.param:
        fcntl = pytest.importorskip("fcntl")

        def flock(*_: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


@pytest.mark.usefixtures("locks")
def test_two_at_once(made, tmp_path):
    dst = tmp_path / "dst"
    work = WorkFolder(dst.resolve())
    work.acquire()
    with pytest.raises(BusyError, match="another process"):
        pull(made.package, dst)
    work.release(remove=True)
    pull(made.package, dst)


@pytest.mark.usefixtures("locks")
def test_a_lock_left_behind_is_taken_over(made, tmp_path):
    (tmp_path / ".dst.p2u").mkdir()
    (tmp_path / ".dst.p2u" / "lock").write_text("99999999")
    pull(made.package, tmp_path / "dst")
    assert leftovers(tmp_path) == []


def test_ctrl_c_keeps_what_is_there(made, tmp_path):
    dst = tmp_path / "dst"

    def progress(p):
        if p.state == "base":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(made.package, dst, progress=progress, limit_rate=1e6, straight=False)
    assert made.label(dst) == "base"
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]
    pull(made.package, dst)
    assert made.label(dst) == "exact"
