"""Updates that begin elsewhere: at a folder or file of another place, or of somebody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kit
import pytest
from kit import tree
from pulling import have, leftovers, only_model
from versions import (
    add_foreign,
    add_release,
    connect,
)

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import NotFoundError, UsageError
from p2u.packing.api import pack


def unchanging(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Of all files: what a reader does not change."""
    stats = {path: path.stat() for path in folder.rglob("*")}
    return {p: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_nlink) for p, s in stats.items()}


def test_a_folder_without_a_state_file(versions, tmp_path):
    dst = Path(shutil.copytree(versions.models["v1"], tmp_path / "dst"))
    (dst / "mine.txt").write_text("mine")
    plan = pull(versions.package, dst, dry_run=True).plan
    assert (plan.here, plan.begin) == ("v1@exact", "v1@exact")
    assert [step.state for step in plan.steps] == ["v2@exact", "exact"]
    assert not (dst / ".p2u-state.json").exists()
    pull(versions.package, dst)
    assert (dst / "mine.txt").read_text() == "mine"
    (dst / "mine.txt").unlink()
    only_model(versions, "v3", dst)


def test_a_folder_pulled_from_another_package(versions, tmp_path):
    other = tmp_path / "other"
    pack(versions.models["v1"], other, name="somebody's copy")
    dst = tmp_path / "dst"
    pull(other, dst)
    result = pull(versions.package, dst, until="v2")
    assert result.fetched < versions.update("v1@exact", "v2@exact").bytes + 30_000
    only_model(versions, "v2", dst)
    assert json.loads((dst / ".p2u-state.json").read_text())["name"] == "model"
    # A state of another model that this package does not know is still refused.
    only = tmp_path / "only-v3"
    pack(versions.models["v3"], only, name="third")
    with pytest.raises(UsageError, match="holds the model 'model', not 'third'"):
        pull(only, dst)


@pytest.mark.parametrize("pulled", [False, True])
@pytest.mark.parametrize("until", ["v2", "exact"])
def test_a_parent_elsewhere(versions, tmp_path, pulled, until):
    parent = tmp_path / "parent"
    if pulled:
        pull(versions.package, parent, until="v1")
    else:
        shutil.copytree(versions.models["v1"], parent)
    before = unchanging(parent)
    dst = tmp_path / "dst"
    plan = pull(versions.package, dst, until=until, origin=parent, dry_run=True).plan
    assert (plan.here, plan.begin) == (None, "v1@exact")
    assert not dst.exists()
    result = pull(versions.package, dst, until=until, origin=parent, in_place=True)
    only_model(versions, "v2" if until == "v2" else "v3", dst)
    assert result.fetched < versions.manifest.states[1].bytes
    assert unchanging(parent) == before
    # Nothing of the new folder is another name of the parent's files.
    assert not {ino for ino, *_ in before.values()} & {p.stat().st_ino for p in dst.rglob("*")}


def test_a_parent_elsewhere_replaces_what_is_here(versions, tmp_path):
    dst = have(versions, "v1@base", tmp_path / "dst")
    result = pull(versions.package, dst, until="v2", origin=versions.models["v1"])
    only_model(versions, "v2", dst)
    assert result.fetched < versions.manifest.states[1].bytes


@pytest.mark.parametrize("here", [None, "v1@base"])
def test_what_is_wanted_is_elsewhere(versions, tmp_path, here):
    dst = tmp_path / "dst"
    if here:
        have(versions, here, dst)
    origin = versions.models["v3"]
    plan = pull(versions.package, dst, origin=origin, dry_run=True).plan
    assert (plan.begin, plan.steps) == ("v3@exact", ())
    assert plan.disk > sum(len(data) for data in tree(origin).values())
    seen = []
    result = pull(versions.package, dst, origin=origin, on_state=seen.append)
    only_model(versions, "v3", dst)
    assert (result.requests, result.state, seen) == (1, "exact", ["exact"])
    assert leftovers(tmp_path) == []
    assert verify(dst).states == ("exact",)


def test_a_parent_that_is_none(versions, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        pull(versions.package, tmp_path / "dst", origin=tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"no state of the package .*v1@base"):
        pull(versions.package, tmp_path / "dst", origin=tmp_path / "other")
    assert not (tmp_path / "dst").exists()


@pytest.fixture(scope="module")
def adopted(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A package that knows somebody else's single file; that file; the model."""
    folder = tmp_path_factory.mktemp("adopted")
    model, other, package = folder / "model", folder / "other", folder / "package"
    model.mkdir()
    other.mkdir()
    weights = [(f"w{n}", "F32", (64, 64), kit.floats(4096, "F32", n)) for n in range(4)]
    kit.write_safetensors(model / "model.safetensors", weights)
    (model / "config.json").write_text("{}")
    theirs = [*weights[:3], ("w3", "F16", (64, 64), kit.floats(4096, "F16", 9))]
    kit.write_safetensors(other / "theirs.safetensors", theirs)
    package.mkdir()
    add_release(package, "v1", model, fresh=True)
    add_foreign(package, "theirs", other)
    connect(package, "theirs@exact", "v1@exact", other, model)
    return package, other / "theirs.safetensors", model


def test_somebody_elses_file_under_any_name(adopted, tmp_path):
    package, theirs, model = adopted
    file = Path(shutil.copy(theirs, tmp_path / "renamed.bin"))
    dst = tmp_path / "dst"
    for origin in (file, tmp_path):
        result = pull(package, dst, origin=origin)
        assert tree(dst) == tree(model)
        assert result.fetched < 64 * 64 * 4 * 2
        assert file.read_bytes() == theirs.read_bytes()
        shutil.rmtree(dst)
    with pytest.raises(UsageError, match="no state 'theirs'"):
        pull(package, dst, until="theirs")


def test_somebody_elses_file_in_the_target_stays(adopted, tmp_path):
    package, theirs, model = adopted
    dst = tmp_path / "dst"
    dst.mkdir()
    shutil.copy(theirs, dst / "renamed.bin")
    plan = pull(package, dst, dry_run=True).plan
    assert (plan.here, plan.begin) == ("theirs@exact", "theirs@exact")
    assert pull(package, dst).fetched < 64 * 64 * 4 * 2
    found = tree(dst)
    assert found.pop("renamed.bin") == theirs.read_bytes()
    assert found == tree(model)
