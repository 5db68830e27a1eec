"""Targets that cannot be exchanged, and those who refer to the folder and not to its name."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import lives
from kit import tree
from pulling import interrupted, leftovers

from p2u.client.folder import place, work_folder
from p2u.client.folder.pull import pull
from p2u.disk import mounts, swap
from p2u.errors import DiskError


@pytest.fixture
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the system calls a mount point."""
    folder = tmp_path / "volume"
    folder.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"30 22 8:1 /data {folder} rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", str(table))
    real = swap.exchange

    def exchange(first: str, second: str) -> bool:
        assert str(folder) not in (first, second), "a mount point cannot be exchanged"
        return real(first, second)

    monkeypatch.setattr(swap, "exchange", exchange)
    return folder


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A real mount point, of the same file system."""
    folder, data = tmp_path / "bound", tmp_path / "data"
    folder.mkdir()
    data.mkdir()
    if not shutil.which("mount"):
        pytest.skip("needs mount")
    if subprocess.run(["mount", "--bind", data, folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_volume_is_staged_within(made, tmp_path, fixed, in_place):
    (fixed / "lost+found").mkdir()  # of its root
    seen = []
    pull(made.package, fixed, in_place=in_place, straight=False, on_state=seen.append)
    assert seen == ["base", "8bit", "exact"]
    assert tree(fixed) == tree(made.model)
    assert not (fixed / ".p2u").exists()
    assert leftovers(tmp_path) == []
    assert (fixed / "lost+found").is_dir()


def test_a_real_mount_point(made, tmp_path, bound):
    pull(made.package, bound, until="base")
    (bound / "mine.txt").write_text("mine")
    before = bound.stat().st_ino
    pull(made.package, bound)
    assert tree(bound) == {**tree(made.model), "mine.txt": b"mine"}
    assert bound.stat().st_ino == before
    assert leftovers(tmp_path) == []


def test_a_mount_point_within_the_target_stays(made, tmp_path, fixed):
    """The folder above a mount point is not exchanged either: the mount would move with it."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    Path(mounts._MOUNTS).write_text(f"30 22 8:1 /data {dst / 'cache'} rw - ext4 /dev/sda1 rw\n")
    assert place.choose(dst) == dst / ".p2u"
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)


def test_a_file_that_is_a_mount_point_gets_the_bytes(made, tmp_path, fixed, monkeypatch):
    """As of `docker -v ./config.json:/models/config.json`."""
    shutil.copytree(made.states["base"], fixed, dirs_exist_ok=True)
    mounted = fixed / "model-00001-of-00002.safetensors"
    before = mounted.stat().st_ino
    real = Path.replace

    def replace(self, target):
        if target == mounted:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == mounted)
    pull(made.package, fixed)
    assert tree(fixed) == tree(made.model)
    assert mounted.stat().st_ino == before
    assert pull(made.package, fixed).state == "exact"


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EBUSY, errno.EPERM, errno.EACCES])
def test_a_folder_that_proves_fixed_in_the_end(made, tmp_path, monkeypatch, code):
    """A layer of a container's image says so at the rename only."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "mine.txt").write_text("mine")
    folder = dst.stat().st_ino

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(work_folder, "replace_folder", refuse)
    pull(made.package, dst)
    assert tree(dst) == {**tree(made.model), "mine.txt": b"mine"}
    assert dst.stat().st_ino == folder
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("in_place", [False, True])
def test_the_parent_is_closed(made, tmp_path, monkeypatch, in_place):
    dst = tmp_path / "dst"
    dst.mkdir()
    monkeypatch.setattr(place, "_may_write", lambda folder: folder != tmp_path)
    pull(made.package, dst, until="base", in_place=in_place)
    before = sorted(path.name for path in tmp_path.iterdir())
    pull(made.package, dst, in_place=in_place)
    assert tree(dst) == tree(made.model)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_closed_target_is_refused_before_the_first_byte(made, tmp_path, monkeypatch):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    real = os.access
    monkeypatch.setattr(
        work_folder.os, "access", lambda path, *rest, **more: path != dst and real(path, *rest)
    )
    with pytest.raises(DiskError, match=r"cannot be written to.*permissions"):
        pull(made.package, dst)
    assert leftovers(tmp_path) == []


def test_an_interrupted_run_within_is_gone_on_with(made, tmp_path, fixed):
    interrupted(made, fixed, 12)
    assert (fixed / ".p2u").is_dir()
    # The next run has another view: the container's volume is a folder of the host.
    Path(mounts._MOUNTS).write_text("")
    assert place.choose(fixed) == fixed / ".p2u"
    pull(made.package, fixed)
    assert tree(fixed) == tree(made.model)
    assert not (fixed / ".p2u").exists()


@pytest.mark.parametrize("start", ["base", None])
def test_dying_while_files_are_moved_one_by_one(made, tmp_path, fixed, start):
    def fresh() -> None:
        shutil.rmtree(fixed)
        if start is None:
            fixed.mkdir()
        else:
            shutil.copytree(made.states[start], fixed)
        (fixed / "mine.txt").write_text("mine")
        if start is None:
            (fixed / "mine.txt").unlink()

    fresh()
    options = {"jobs": 1, "straight": True}
    count = 0
    for at in lives(lambda life: pull(made.package, fixed, **options), stride=7, torn=True):
        count += 1
        # Each file is of one state or of the next.
        for path in fixed.glob("*.safetensors"):
            states = [made.states[label] / path.name for label in made.states]
            assert path.read_bytes() in [state.read_bytes() for state in states]
        pull(made.package, fixed, **options)
        assert made.label(fixed) == "exact", f"after change {at}"
        assert not (fixed / ".p2u").exists()
        assert start is None or (fixed / "mine.txt").read_text() == "mine"
        fresh()
    assert count > 5


# --- those who refer to the folder itself


def test_the_folder_stays_itself(made, tmp_path):
    """A shell, a watch for changes or a container's mount refers to the folder."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "mine.txt").write_text("mine")
    held = os.open(dst, os.O_RDONLY)
    try:
        for label in ("8bit", "exact"):
            pull(made.package, dst, until=label)
            assert os.path.samestat(dst.stat(), os.fstat(held))
            assert made.label(Path(f"/proc/self/fd/{held}")) in (label, None)
            names = sorted(path.name for path in dst.iterdir())
            assert sorted(os.listdir(held)) == names  # noqa: PTH208
    finally:
        os.close(held)
    assert (dst / "mine.txt").read_text() == "mine"
    assert {path.stat().st_nlink for path in dst.rglob("*") if path.is_file()} == {1}


def test_without_links_the_new_folder_stays(made, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "mine.txt").write_text("mine")
    monkeypatch.setattr(os, "link", refuse)
    pull(made.package, dst)
    assert tree(dst) == {**tree(made.model), "mine.txt": b"mine"}
    assert leftovers(tmp_path) == []
