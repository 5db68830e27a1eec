"""Sensitivity files: what is none is refused, and damage is a small integer."""

from __future__ import annotations

import pytest

from p2u.errors import FormatError
from p2u.packing.allocation.damage import parse_damage, quantise


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "[]", "{}", '{"format": "p2u-sensitivity", "version": 2, "tensors": {"a": 1}}',
        *(
            '{"format": "p2u-sensitivity", "version": 1, "tensors": ' + tensors + "}"
            for tensors in ("[]", "{}", '{"a": "x"}', '{"a": -1}', '{"a": NaN}', '{"a": 0}',
                            '{"a": true}', '{"a": 1e999}', '{"a": null}')
        ),
    ],
)  # fmt: skip
def test_sensitivity_files_that_are_none(text: str) -> None:
    with pytest.raises(FormatError, match=r"sens\.json"):
        parse_damage(text.encode(), "sens.json")


def test_no_damage_is_little_damage() -> None:
    assert quantise({"a": 4, "b": 0, "c": 2.0}) == {"a": 128, "b": 128 - 30 * 64, "c": 64}
