"""Fixtures of the tests that pull."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def package(made, tmp_path) -> Path:
    """A copy of the package, to be damaged."""
    return Path(shutil.copytree(made.package, tmp_path / "copy"))


@pytest.fixture
def small_requests(monkeypatch):
    monkeypatch.setattr("p2u.client.transfer.requests.MIN_REQUEST", 1)
    monkeypatch.setattr("p2u.client.transfer.requests.MAX_REQUEST", 1)
