"""Work folders of pulls that were given up: listed, removed, kept where they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit import tree
from pulling import interrupted, leftovers

import p2u
from p2u.client.folder.clean import clean
from p2u.client.folder.pull import pull
from p2u.client.folder.work_folder import WorkFolder
from p2u.errors import NotFoundError


def fates(folder: Path, **options) -> dict[str, str]:
    return {Path(left.path).name: left.fate for left in clean(folder, **options)}


def test_a_target_and_all_targets_in_a_folder(made, tmp_path):
    for name in ("one", "two", "three"):
        interrupted(made, tmp_path / name, 12)
    before = tree(tmp_path)
    listed = clean(tmp_path, dry_run=True)
    assert [left.fate for left in listed] == ["abandoned"] * 3
    assert all(left.bytes > 0 and left.age >= 0 for left in listed)
    assert tree(tmp_path) == before
    assert fates(tmp_path / "one") == {".one.p2u": "removed"}
    assert fates(tmp_path) == {".two.p2u": "removed", ".three.p2u": "removed"}
    assert leftovers(tmp_path) == []
    assert p2u.clean(tmp_path) == ()
    pull(made.package, tmp_path / "two")
    assert tree(tmp_path / "two") == tree(made.model)


def test_within_a_target(made, tmp_path):
    (tmp_path / "dst" / ".p2u").mkdir(parents=True)
    interrupted(made, tmp_path / "dst", 12)
    assert fates(tmp_path / "dst") == {".p2u": "removed"}


def test_one_in_use_stays(made, tmp_path):
    interrupted(made, tmp_path / "dst", 12)
    work = WorkFolder((tmp_path / "dst").resolve())
    work.acquire()
    assert fates(tmp_path) == {".dst.p2u": "busy"}
    work.release(remove=False)
    assert fates(tmp_path) == {".dst.p2u": "removed"}


def test_one_that_is_needed_stays(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 12, in_place=True)
    assert fates(dst) == {".dst.p2u": "needed"}
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)
    assert fates(dst) == {}


def test_folders_that_are_not_ours_stay(tmp_path):
    (tmp_path / ".model.p2u").mkdir()
    (tmp_path / ".model.p2u" / "p2u.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".link.p2u").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".file.p2u").write_text("mine")
    assert fates(tmp_path) == {}
    assert (tmp_path / ".model.p2u" / "p2u.json").exists()
    assert (tmp_path / "elsewhere").is_dir()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="nothing"):
        clean(tmp_path / "nothing")
