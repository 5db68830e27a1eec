"""The core's functions on plain buffers agree with Python's own."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.codec import plain
from p2u.errors import UsageError


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(0, 50_000))
def test_messages_of_any_sizes_are_hashed_as_each_alone(sizes: list[int], large: int) -> None:
    messages = [bytes((n * k + k // 7) % 256 for n in range(size)) for k, size in enumerate(sizes)]
    messages.append(bytes(range(256)) * (large // 256))
    found = plain.sha256_each([memoryview(bytearray(b"?" + m))[1:] for m in messages])
    assert found == [hashlib.sha256(message).digest() for message in messages]


def test_without_the_instructions_hashlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "sha256", lambda _: None)
    assert plain.sha256_each([b"a", b""]) == [hashlib.sha256(m).digest() for m in (b"a", b"")]


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 199))
def test_equal(a: bytes, b: bytes, at: int) -> None:
    assert plain.equal(memoryview(bytearray(a)), a)
    assert plain.equal(a, b) == (a == b)
    if at < len(a):
        other = bytearray(a)
        other[at] ^= 1
        assert not plain.equal(a, other)


@given(st.binary(min_size=1, max_size=600), st.sampled_from([1, 2, 4]), st.integers(0, 600))
def test_bits_are_the_entropy_of_each_place(data: bytes, item: int, cut: int) -> None:
    data = data[: len(data) // item * item]
    cut = cut // item * item
    found = plain.opaque_bits(item, [data[:cut], data[cut:]]) / 256
    expected = 0.0
    for place in range(item):
        seen = Counter(data[place::item])
        expected += sum(n * math.log2(seen.total() / n) for n in seen.values())
    assert found == pytest.approx(expected, rel=0.01, abs=0.02 * len(data))


def test_bits_of_parts_of_elements() -> None:
    for item, data in [(2, b"abc"), (0, b"")]:
        with pytest.raises(UsageError):
            plain.opaque_bits(item, [data])
