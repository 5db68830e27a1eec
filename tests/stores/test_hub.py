"""The Hub: the contract, tokens, redirects to a CDN, and commits."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import TOKEN, Hub
from store_contract import BLOB, OBJECTS
from writing_contract import Reopen, WritingContract

from p2u.errors import NotFoundError, StoreError, UnsupportedError, UsageError
from p2u.stores import Store, open_store, open_writable
from p2u.stores.hf import HubPlace, find_token

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def contract(hub: Hub) -> None:
    """Have a repository with the objects of the contract."""
    hub.add("org/contract", {f"a b/{key}": data for key, data in OBJECTS.items()})


class TestHub(WritingContract):
    @pytest.fixture
    def reopen(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Reopen:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        url = f"hf://org/model-{next(_numbers)}/some/folder"
        return lambda: open_writable(url, stall_timeout=10)

    @pytest.fixture
    def store(self, hub: Hub) -> Iterator[Store]:
        with open_store("hf://org/contract/a%20b/p2u.json", stall_timeout=10) as opened:
            yield opened
        assert not hub.leaked


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://org/model", HubPlace("models", "org/model", "main", "")),
        ("hf://org/model/", HubPlace("models", "org/model", "main", "")),
        ("hf://org/model@v1.0", HubPlace("models", "org/model", "v1.0", "")),
        ("hf://org/model@refs%2Fpr%2F1/a/b", HubPlace("models", "org/model", "refs/pr/1", "a/b/")),
        ("hf://datasets/org/set/p2u.json", HubPlace("datasets", "org/set", "main", "")),
        ("hf://models/org/model/x/p2u.json", HubPlace("models", "org/model", "main", "x/")),
    ],
)
def test_urls(url: str, place: HubPlace) -> None:
    assert HubPlace.parse(url) == place


@pytest.mark.parametrize("url", ["hf://", "hf://model", "hf://org/", "hf://org/m?x=1", "hf://../x"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_a_private_repository_needs_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private = True
    with open_store("hf://org/contract/a b") as store, pytest.raises(StoreError) as caught:
        store.read("p2u.json", limit=100)
    assert not caught.value.retryable
    assert "HF_TOKEN" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with open_store("hf://org/contract/a b") as store:
        assert b"".join(store.stream(BLOB, 5, 10)) == OBJECTS[BLOB][5:15]
    assert not hub.leaked


def test_the_token_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN_PATH", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert find_token() is None
    (tmp_path / "token").write_text("hf_of_file\n")
    assert find_token() == "hf_of_file"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert find_token() is None


def test_a_signed_url_that_expired_is_asked_for_anew(hub: Hub) -> None:
    hub.lifetime = 0.05  # over before the second range is asked for
    with open_store("hf://org/contract/a b") as store:
        for start in range(0, 300_000, 60_000):
            assert b"".join(store.stream(BLOB, start, 1000)) == OBJECTS[BLOB][start : start + 1000]
    assert hub.signed == 5


def test_a_commit_is_pinned(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = hub.repositories["org/contract"].sha(1)
    hub.add("org/contract", {"a b/p2u.json": b"newer"})
    with open_store(f"hf://org/contract@{sha}/a b") as store:
        assert store.read("p2u.json", limit=100) == OBJECTS["p2u.json"]
    with open_store("hf://org/contract/a b") as store:
        assert store.read("p2u.json", limit=100) == b"newer"
    with open_store("hf://org/contract@nowhere") as store, pytest.raises(NotFoundError):
        store.read("p2u.json", limit=100)


def test_writing_without_a_token(hub: Hub) -> None:
    with open_writable("hf://org/contract") as store, pytest.raises(StoreError, match="HF_TOKEN"):
        store.put("p2u.json", b"x")


def test_writing_without_the_library(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with (
        open_writable("hf://org/contract") as store,
        pytest.raises(UnsupportedError, match=r"p2u-models\[hub\]"),
    ):
        store.put("p2u.json", b"x")
