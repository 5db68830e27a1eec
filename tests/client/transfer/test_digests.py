"""Payloads against their digests: alone, in pairs, in threes, whatever their lengths."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.client.transfer import digests
from p2u.client.transfer.digests import wrong


@pytest.fixture(params=[True, False], autouse=True)
def together(request, monkeypatch) -> None:
    """Hash short payloads together, too; and none at all."""
    monkeypatch.setattr(digests, "_LEAST", 0)
    if not request.param:
        monkeypatch.setattr(digests, "pairs_are_faster", lambda: False)


def claims(sizes: list[int]) -> list[tuple[memoryview, bytes]]:
    rng = random.Random(len(sizes))
    payloads = [bytearray(rng.randbytes(size)) for size in sizes]
    return [(memoryview(data), hashlib.sha256(data).digest()) for data in payloads]


@pytest.mark.parametrize("count", range(8))
def test_right_payloads(count: int) -> None:
    assert wrong(claims([1000 + 37 * n for n in range(count)])) == []
    assert wrong(claims([64] * count)) == []


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=9))
def test_exactly_the_wrong_ones_are_found(payloads: list[tuple[int, bool]]) -> None:
    made = claims([size for size, _ in payloads])
    for (memory, _), (size, damaged) in zip(made, payloads, strict=True):
        if damaged and size:
            memory[size // 2] ^= 4
    assert wrong(made) == [n for n, (size, damaged) in enumerate(payloads) if damaged and size]


def test_long_payloads_of_unlike_lengths() -> None:
    made = claims([300_000, 200_001, 100_063, 70_000, 1])
    assert wrong(made) == []
    made[1][0][200_000] ^= 1
    made[4][0][0] ^= 1
    assert wrong(made) == [1, 4]
