"""What is in the target folder already: ours, touched, or not to be touched."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from kit import tree
from pulling import leftovers
from store_kit import CountingStore

from p2u.client.folder.pull import pull
from p2u.disk import swap
from p2u.errors import FormatError, UsageError
from p2u.stores import LocalStore


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
        monkeypatch.setattr(swap, "exchange", lambda *_: False)
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
        text = path.read_text()  # with the same files it would be a state of ours
        digest = hashlib.sha256((dst / "config.json").read_bytes()).hexdigest()
        (dst / "config.json").write_text("{}")
        path.write_text(text.replace(digest, hashlib.sha256(b"{}").hexdigest()))
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
