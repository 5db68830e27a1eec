"""Prefixes of tensors' names: what is removed or added so that most names fit."""

from __future__ import annotations

import pytest

from p2u.names.prefixes import find_renaming

BARE = ["embed.weight", "layer.0.weight", "layer.1.weight"]


@pytest.mark.parametrize("prefix", ["", "bert.", "module.", "base_model.model.", "a.b.c."])
def test_one_prefix_is_found_in_both_directions(prefix: str) -> None:
    longer = [prefix + name for name in BARE]
    assert [find_renaming(BARE, set(longer))(name) for name in BARE] == longer
    assert [find_renaming(longer, set(BARE))(name) for name in longer] == BARE


def test_the_prefix_that_fits_most_names_counts() -> None:
    names = ["x.a.w", "x.b.w", "y.c.w", "head.w"]
    rename = find_renaming(names, {"a.w", "b.w", "c.w"})
    assert [rename(name) for name in names] == ["a.w", "b.w", "y.c.w", "head.w"]


def test_nothing_changes_without_need() -> None:
    assert find_renaming(["a.w", "m.b.w"], {"a.w", "c.w"})("m.b.w") == "m.b.w"
    assert find_renaming([], {"a.w"})("b.w") == "b.w"
    assert find_renaming(["q.w"], set())("q.w") == "q.w"


def test_first_parts_are_tried_however_deep_other_names_are() -> None:
    deep = [f"head.{n}.{'x.' * 9}w" for n in range(20)]
    names = [*deep, "bert.embed.w", "bert.norm.w"]
    assert find_renaming(names, {"embed.w", "norm.w"})("bert.norm.w") == "norm.w"
