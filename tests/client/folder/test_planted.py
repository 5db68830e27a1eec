"""Names next to a target that somebody has planted: nothing else is changed or removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from kit import tree
from pulling import flip, interrupted, leftovers

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.disk import files
from p2u.errors import DiskError, FormatError, P2UError, UsageError
from p2u.packing.api import gc

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs links")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "draft.txt").write_text("years of work")
    return folder


def unharmed(folder: Path) -> bool:
    return tree(folder) == {"thesis/draft.txt": b"years of work"}


@pytest.mark.parametrize("name", ["", "next", "old", "gone", "redo", "cache", "lock", "journal"])
@pytest.mark.parametrize("start", [None, "base"])
def test_links_in_place_of_the_work_folder(made, tmp_path, theirs, name, start):
    dst, work = tmp_path / "dst", tmp_path / ".dst.p2u"
    if start:
        pull(made.package, dst, until=start)
    if name:
        work.mkdir()
    (work / name).symlink_to(theirs if name != "lock" else theirs / "nothing")
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)
    assert unharmed(theirs)
    assert leftovers(tmp_path) == []


def test_files_of_strangers_in_the_work_folder_stay(made, tmp_path):
    (tmp_path / ".dst.p2u").mkdir()
    (tmp_path / ".dst.p2u" / "diary").write_text("mine")
    pull(made.package, tmp_path / "dst")
    assert tree(tmp_path / ".dst.p2u") == {"diary": b"mine"}


@pytest.mark.parametrize("name", ["journal", "next"])
def test_something_else_in_its_place_is_an_error_that_passes(made, tmp_path, name):
    path = tmp_path / ".dst.p2u" / name
    if name == "journal":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_text("mine")
    with pytest.raises(DiskError, match=f"{name}.*move it away"):
        pull(made.package, tmp_path / "dst")
    shutil.rmtree(tmp_path / ".dst.p2u")
    assert pull(made.package, tmp_path / "dst").state == "exact"


@pytest.mark.parametrize("how", ["file", "folder", "second name"])
def test_links_within_the_state_of_an_interrupted_run(made, tmp_path, theirs, how):
    dst = tmp_path / "dst"
    interrupted(made, dst, 12)
    work = tmp_path / ".dst.p2u" / "next"
    draft = theirs / "thesis" / "draft.txt"
    if how == "folder":
        shutil.rmtree(work / "1_Pooling", ignore_errors=True)
        (work / "1_Pooling").symlink_to(theirs)
    else:
        path = work / "model-00001-of-00002.safetensors"
        path.unlink()
        path.symlink_to(draft) if how == "file" else path.hardlink_to(draft)
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)
    assert unharmed(theirs)


def test_in_place_writes_through_no_linked_folder(made, tmp_path):
    dst, elsewhere = tmp_path / "dst", tmp_path / "elsewhere"
    pull(made.package, dst, until="base")
    (dst / "1_Pooling").rename(elsewhere)
    (dst / "1_Pooling").symlink_to(elsewhere)
    before = tree(elsewhere)
    pull(made.package, dst, in_place=True)
    assert tree(elsewhere) == before
    for name in ("extra.npz",):
        (dst / name).rename(elsewhere / name)
        (dst / name).symlink_to(elsewhere / name)
    flip(elsewhere / "extra.npz", 200)
    with pytest.raises(UsageError):
        pull(made.package, dst, in_place=True)


def test_a_state_file_that_is_none(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    path = dst / ".p2u-state.json"
    path.write_text("[" * 100_000)
    with pytest.raises(FormatError, match="Remove it"):
        pull(made.package, dst)
    path.unlink()
    os.mkfifo(path)
    for look in (lambda: pull(made.package, dst), lambda: verify(dst)):
        with pytest.raises(P2UError, match="regular file"):
            look()


@pytest.mark.parametrize("name", ["away/thesis", "away/thesis/draft.txt", "sub/away/thesis"])
def test_gc_removes_nothing_outside_of_the_package(package, theirs, name):
    (package / "sub").mkdir()
    (package / "away").symlink_to(theirs)
    (package / "sub" / "away").symlink_to(theirs)
    (theirs / "empty").mkdir()
    (package / ".p2u-unused.json").write_text(json.dumps({name: 0, "away/empty/x": 0}))
    gc(package, keep=1)
    assert unharmed(theirs)
    assert (theirs / "empty").is_dir()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, "[]", "", '{"x": NaN}'])
def test_a_list_of_unused_files_that_is_none(package, text):
    (package / ".p2u-unused.json").write_text(text)
    gc(package, keep=1)


def test_the_lock_of_a_package_is_no_link(package, theirs):
    draft = theirs / "thesis" / "draft.txt"
    (package / ".p2u-lock").symlink_to(draft)
    with pytest.raises(DiskError, match="p2u-lock"):
        gc(package, keep=1)
    assert unharmed(theirs)


def test_removal_is_by_descriptor(tmp_path, theirs, monkeypatch):
    """The folder is exchanged for a link after it was looked at."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    real = os.open

    def swapped(path, flags, *rest, **options):
        if path == "a":
            (root / "a").rmdir()
            (root / "a").symlink_to(theirs)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(files.os, "open", swapped)
    assert files.remove_below(root, "a/thesis") == 0
    assert unharmed(theirs)
