"""OCI registries: the contract on a real one, its logins, and its manifests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from servers import Registry
from writing_contract import Reopen, WritingContract, fill

from p2u.stores import Store, open_store, open_writable

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as server:
        yield server


@pytest.fixture(autouse=True)
def no_logins(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no credentials of this machine."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def fresh(registry: Registry) -> str:
    """The URL of a repository that no other test uses."""
    return f"oci://{registry.host}/team/model-{next(_numbers)}:v1"


class TestOci(WritingContract):
    @pytest.fixture
    def reopen(self, registry: Registry) -> Reopen:
        url = fresh(registry)
        return lambda: open_writable(url, stall_timeout=10)

    @pytest.fixture
    def store(self, registry: Registry) -> Iterator[Store]:
        url = f"oci://{registry.host}/contract"
        with open_writable(url) as store:
            if store.find("p2u.json") is None:
                fill(store)
        with open_store(f"{url}/p2u.json", stall_timeout=10) as opened:
            yield opened
