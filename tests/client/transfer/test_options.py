"""Options of a transfer: what they allow, and that every function below the edge gets them."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

import p2u
from p2u.client.transfer.options import TransferOptions
from p2u.errors import UsageError
from p2u.processors import processors


@pytest.mark.parametrize(
    ("keywords", "said"),
    [({"jobs": 0}, "jobs"), ({"limit_rate": "fast"}, "rate"), ({"limit_rate": 0.0}, "rate")],
)
def test_wrong_options_are_said_at_once(keywords, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        TransferOptions(**keywords)
    with pytest.raises(UsageError, match=said):
        p2u.pull("http://127.0.0.1:9/nothing", tmp_path / "dst", **keywords)
    with pytest.raises(UsageError, match=said):
        p2u.open("http://127.0.0.1:9/nothing", **keywords)
    with pytest.raises(UsageError, match=said):
        p2u.load("http://127.0.0.1:9/nothing", **keywords)
    with pytest.raises(UsageError, match=said):
        p2u.verify("http://127.0.0.1:9/nothing", **keywords)


def test_threads():
    assert TransferOptions(jobs=30).threads(remote=False) == 30
    assert TransferOptions().threads(remote=False) == min(8, processors())
    assert 4 <= TransferOptions().threads(remote=True) <= 8


def test_each_transfer_has_a_limiter_of_its_own():
    options = TransferOptions(limit_rate="2kB/s")
    one, other = options.limiter(), options.limiter()
    assert one.bytes_per_second == other.bytes_per_second == 2000
    assert one is not other
    assert TransferOptions().limiter() is None


def test_every_option_is_documented_and_no_other():
    text = inspect.getdoc(TransferOptions)
    for field in fields(TransferOptions):
        assert f"    {field.name}: " in text
