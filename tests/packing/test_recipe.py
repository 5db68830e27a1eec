"""Recipes that contradict themselves are refused, and so are lists of levels."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from packing_kit import decode, model, weights

from p2u import pack
from p2u.errors import UsageError
from p2u.packing.recipe import LEVELS, Recipe, check_levels, halvings


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


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ("base,exact", (0,)),
        ("base,8bit,exact", (4, 0)),
        ("base,6bit,8bit,10bit,exact", (2, 4, 6, 0)),
        ("base,5bit,9bit,12bit,16bit,19bit,exact", (1, 5, 8, 12, 15, 0)),
        # An update brings at most seven halvings, the first one eleven.
        ("base,13bit,exact", (9, 0)),
        ("base,19bit,exact", (11, 0)),
        ("base,14bit,15bit,exact", (10, 11, 0)),
        ("base,18bit,19bit,exact", (11, 15, 0)),
        ("base,6bit,19bit,exact", (2, 9, 0)),
    ],
)
def test_levels(levels: str, expected: tuple[int, ...]) -> None:
    labels = tuple(levels.split(","))
    assert check_levels(list(labels)) == labels
    assert halvings(labels) == expected


def test_any_levels_lead_on_within_the_limits_of_a_reader() -> None:
    for first in range(5, 20):
        for second in range(first + 1, 20):
            for third in range(second + 1, 20):
                *found, exact = halvings(
                    ("base", *(f"{bits}bit" for bits in (first, second, third)), "exact")
                )
                steps = [b - a for a, b in zip((0, *found), found, strict=False)]
                assert exact == 0 and found[-1] <= 15
                assert min(steps) >= 1 and max(steps[1:]) <= 7 and steps[0] <= 11


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        ("", "Begin with base and end with exact, for example base,8bit,exact"),
        ("base", "Begin with base and end with exact"),
        ("exact", "Begin with base and end with exact"),
        ("base,8bit", "the levels are base,8bit"),
        ("8bit,exact", "the levels are 8bit,exact"),
        ("exact,8bit,base", "the levels are exact,8bit,base"),
        ("base,8bits,exact", "there is no level '8bits'"),
        ("base,08bit,exact", "there is no level '08bit'"),
        ("base,8BIT,exact", "there is no level '8BIT'"),
        ("base,8bit\n,exact", "there is no level"),
        ("base,,exact", "there is no level ''"),
        ("base,base,exact", "there is no level 'base'"),
        ("base,exact,exact", "there is no level 'exact'"),
        ("base,4bit,exact", "'4bit'.*there can be 5bit to 19bit"),
        ("base,20bit,exact", "'20bit'.*there can be 5bit to 19bit"),
        ("base,8bit,6bit,exact", "6bit is not finer than 8bit before it"),
        ("base,8bit,8bit,exact", "8bit is not finer than 8bit before it"),
    ],
)
def test_levels_that_cannot_be(levels: str, match: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_levels(levels.split(",") if levels else [])
    assert re.search(match, f"{caught.value.message} {caught.value.hint}")


def test_the_default_levels() -> None:
    assert check_levels(LEVELS) == ("base", "8bit", "exact")


def test_patterns_with_a_file(tmp_path: Path) -> None:
    """Pipelines have tensors of the same name in several files."""
    for folder in ("unet", "vae"):
        model(tmp_path / "m" / folder, {"conv.weight": weights("F32", 64, 64)})
    src = tmp_path / "m"

    def kept(*patterns: str) -> list[str]:
        package = tmp_path / "-".join(patterns).replace("/", "_").replace("*", "x")
        pack(src, package, keep=patterns)
        opened = decode(package)
        files = [file.path for file in opened.manifest.latest.files]
        return [
            file
            for number, file in enumerate(files)
            if opened.states[0][number] == (src / file).read_bytes()
        ]

    vae, unet = (f"{folder}/model.safetensors" for folder in ("vae", "unet"))
    assert kept("vae/*:conv.weight") == [vae]
    assert kept("unet/model.safetensors:*") == [unet]
    assert kept("conv.*") == [unet, vae]
    # Without a colon a pattern is for names alone.
    with pytest.raises(UsageError, match=r"no tensor matches 'vae/\*'"):
        pack(src, tmp_path / "p", keep=["vae/*"])
    pack(src, tmp_path / "q", tensor_bits={"*:conv.weight": 5, "vae/*:*": 2})
    first, second = (report_bits(tmp_path / "q", file) for file in (unet, vae))
    assert first > 1.5 * second


def report_bits(package: Path, file: str) -> int:
    """Bytes of the base's chunks of a file."""
    opened = decode(package)
    number = [entry.path for entry in opened.manifest.latest.files].index(file)
    layout = opened.layout
    return sum(
        chunk.length
        for chunk in opened.chunks[0]
        if any(layout.tensors[segment.tensor].file == number for segment in chunk.segments)
    )
