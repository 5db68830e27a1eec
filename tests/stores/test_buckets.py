"""Buckets of each kind, on a real server, against the one contract."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
from servers import BUCKET, Azurite, SeaweedFS
from writing_contract import Reopen, WritingContract, fill

from p2u.stores import Store, open_store, open_writable

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    with SeaweedFS() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with Azurite() as server:
        yield server


def use(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have only these variables of the clouds."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def fresh(scheme: str) -> str:
    """The URL of a place that no other test uses."""
    return f"{scheme}://{BUCKET}/{os.getpid()}/no {next(_numbers)}.p2u"


class TestS3(WritingContract):
    SCHEME = "s3"

    @pytest.fixture(autouse=True)
    def environment(self, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
        use(seaweed.variables, monkeypatch)

    @pytest.fixture
    def reopen(self) -> Reopen:
        url = fresh(self.SCHEME)
        return lambda: open_writable(url, stall_timeout=10)

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        url = f"{self.SCHEME}://{BUCKET}/contract-{os.getpid()}"
        with open_writable(url) as store:
            if store.find("p2u.json") is None:
                fill(store)
        with open_store(f"{url}/p2u.json", stall_timeout=10) as opened:
            yield opened


class TestAzure(TestS3):
    SCHEME = "az"

    @pytest.fixture(autouse=True)
    def environment(self, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
        use(azurite.variables, monkeypatch)
