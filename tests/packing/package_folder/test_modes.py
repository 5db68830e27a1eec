"""Modes of a package's files: private models do not become public ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from following import changed
from kit import write_model

from p2u.packing.api import pack, publish

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs modes")


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [pack, publish])
@pytest.mark.parametrize(("private", "expected"), [(0o600, 0o600), (0o640, 0o640), (0o444, 0o644)])
def test_a_package_is_as_private_as_its_model(tmp_path, make, private, expected):
    model = tmp_path / "model"
    write_model(model)
    for path in model.rglob("*.*"):
        path.chmod(0o644)
    (model / "model-00002-of-00002.safetensors").chmod(private)
    make(model, tmp_path / "pkg")
    assert modes(tmp_path / "pkg") == {expected}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_new_version_is_as_private_as_the_package(tmp_path, mode):
    model = tmp_path / "model"
    write_model(model)
    publish(model, tmp_path / "pkg")
    for path in (tmp_path / "pkg").rglob("*"):
        if path.is_file():
            path.chmod(mode)
    publish(changed(model, tmp_path / "second", 2), tmp_path / "pkg")
    assert modes(tmp_path / "pkg") == {mode}
