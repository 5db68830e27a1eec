"""Recipes that contradict themselves are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from p2u.errors import UsageError
from p2u.packing.recipe import Recipe


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 3, "budget": 1000},
        {"budget": 1000, "ratio": 0.5},
        {"budget": 0},
        {"ratio": 0},
        {"ratio": 1.5},
        {"ratio": math.nan},
        {"own": (("a", 0.5),)},
        {"own": (("a", math.nan),)},
    ],
)
def test_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Recipe(**arguments)
