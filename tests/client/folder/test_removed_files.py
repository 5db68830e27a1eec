"""Versions that only remove or rename files, and folders that have more than a version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from kit import tree

from p2u.client.folder.pull import pull
from p2u.packing.api import publish


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """v2 lacks a file of v1, v3 has it at another place, v4 is v1 again."""
    from kit import floats, write_safetensors

    root = tmp_path_factory.mktemp("removed")
    one = root / "v1"
    one.mkdir()
    write_safetensors(one / "model.safetensors", [("w", "F32", (64, 64), floats(4096, "F32", 1))])
    (one / "sub").mkdir()
    (one / "sub" / "added_tokens.json").write_text('{"<bad>": 1}')
    two = Path(shutil.copytree(one, root / "v2"))
    shutil.rmtree(two / "sub")
    three = Path(shutil.copytree(two, root / "v3"))
    (three / "tokens.json").write_text('{"<bad>": 1}')
    four = Path(shutil.copytree(one, root / "v4"))
    models = {"v1": one, "v2": two, "v3": three, "v4": four}
    for version, folder in models.items():
        publish(str(folder), str(root / "pkg"), version=version)
    return models


@pytest.fixture
def package(models) -> Path:
    return models["v1"].parent / "pkg"


def recorded(folder: Path) -> str:
    return json.loads((folder / ".p2u-state.json").read_text())["state"]


@pytest.mark.parametrize("route", ["v1 v2", "v2 v1", "v1 v2 v3", "v1 v3 v4", "v2 v4 v2"])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_folder_is_exactly_the_version(models, package, tmp_path, route, in_place):
    dst = tmp_path / "dst"
    for version in route.split():
        pull(package, dst, until=version, in_place=in_place)
        assert tree(dst) == tree(models[version])
        assert recorded(dst) == f"{version}@exact"
        assert (dst / "sub").exists() == (models[version] / "sub").exists()


def test_without_a_state_file_the_larger_version_counts(models, package, tmp_path):
    dst = Path(shutil.copytree(models["v1"], tmp_path / "dst"))
    pull(package, dst, until="v2")
    assert tree(dst) == tree(models["v2"])


def test_a_file_that_the_user_removed_makes_it_the_other_version(models, package, tmp_path):
    dst = tmp_path / "dst"
    pull(package, dst, until="v1")
    (dst / "sub" / "added_tokens.json").unlink()
    assert pull(package, dst, until="v2").fetched > 0  # the manifest
    assert recorded(dst) == "v2@exact"
    pull(package, dst, until="v1")
    assert tree(dst) == tree(models["v1"])


def test_files_of_others_next_to_a_removed_one_stay(models, package, tmp_path):
    dst = tmp_path / "dst"
    pull(package, dst, until="v1")
    (dst / "sub" / "mine.txt").write_text("mine")
    pull(package, dst, until="v2")
    assert tree(dst / "sub") == {"mine.txt": b"mine"}


def test_versions_with_the_same_files_are_told_apart(models, package, tmp_path):
    dst = tmp_path / "dst"
    pull(package, dst, until="v1")
    pull(package, dst, until="v4")
    assert recorded(dst) == "v4@exact"
