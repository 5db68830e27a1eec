"""Fixtures of the tests that pull."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def package(made, tmp_path) -> Path:
    """A copy of the package, to be damaged."""
    return Path(shutil.copytree(made.package, tmp_path / "copy"))
