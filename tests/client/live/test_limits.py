"""Packages that ask for more memory than there is, or than the caller allows."""

from __future__ import annotations

import mmap

import pytest

import p2u
from p2u.client.live.memory import allocate
from p2u.errors import LimitError


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), MemoryError()])
def test_memory_that_cannot_be_had(monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(LimitError, match=r"20 bytes of memory.*max_bytes"):
        allocate(20)


def test_a_size_that_no_machine_has():
    with pytest.raises(LimitError):
        allocate(2**62)


def test_no_more_than_the_caller_allows(made):
    with pytest.raises(LimitError, match="at most 1000"):
        p2u.load(made.package, max_bytes=1000)
    with p2u.open(made.package, max_bytes=1000) as replica, pytest.raises(LimitError):
        replica.wait("base", timeout=60)
