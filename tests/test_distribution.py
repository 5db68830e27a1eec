"""The distributions that users get: the product only, nothing of the laboratory."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Words in names of files and folders of the laboratory.
LAB = re.compile(r"(^|[/_.-])(lab|eval|bench|relay|nets|rivals)([/_.-]|$)")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds a distribution as an installer does, but for the core: that is an empty file."""
    if importlib.util.find_spec("hatchling") is None or os.name == "nt":
        pytest.skip("needs hatchling, and a script in place of cargo")
    library = tmp_path / "libp2u_core.so"
    library.touch()
    about = {"reason": "compiler-artifact", "target": {"name": "p2u_core"}}
    cargo = tmp_path / "cargo"
    cargo.write_text(f"#!/bin/sh\necho '{json.dumps({**about, 'filenames': [str(library)]})}'\n")
    cargo.chmod(0o755)
    monkeypatch.setenv("CARGO", str(cargo))

    def run(target: str) -> Path:
        folder = tmp_path / "dist"
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (made,) = folder.iterdir()
        return made

    return run


def test_the_wheel_holds_the_product_only(build) -> None:
    names = zipfile.ZipFile(build("wheel")).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"p2u", "p2u_models"}
    assert {name for name in names if "/_core/" in name} == {"p2u/_core/libp2u_core.so"}
    kinds = {PurePosixPath(n).suffix for n in names if n.startswith("p2u/") and "/_core/" not in n}
    assert kinds == {".py", ".typed"}
    sources = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert not [name for name in names if LAB.search(name)]


def test_the_source_distribution_has_no_laboratory(build) -> None:
    with tarfile.open(build("sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "core/Cargo.toml", "src/p2u/__init__.py"} <= names
    assert {name.split("/")[0] for name in names} <= {
        *(".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "SPEC.md"),
        *("core", "hatch_build.py", "pyproject.toml", "src", "tests"),
    }
    assert not [name for name in names if name.startswith("src/") and LAB.search(name)]
