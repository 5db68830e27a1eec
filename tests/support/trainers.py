"""The released trainers that adapters are tested in; `make test-trainers` installs them."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def trainer(name: str) -> ModuleType:
    """A trainer's module; the tests are skipped without it, unless ``P2U_ALL_TRAINERS`` is set."""
    if os.environ.get("P2U_ALL_TRAINERS"):
        return importlib.import_module(name)
    found: ModuleType = pytest.importorskip(name)
    return found
