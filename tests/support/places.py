"""Places in stores of each kind, on servers that all tests of a process share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gcs import FakeGcs
from hub import TOKEN, Hub
from servers import BUCKET, Azurite, Registry, SeaweedFS

#: The schemes of stores that can be written.
WRITABLE = ("file", "s3", "az", "gs", "oci", "hf")

_numbers = itertools.count(1)
_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "HF_", "HUGGING_FACE_", "DOCKER_")


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    with SeaweedFS() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with Azurite() as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry() as server:
        yield server


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine, neither variables nor files."""
    for name in list(os.environ):
        if name.startswith(_CLOUDS):
            monkeypatch.delenv(name)
    for name in ("HF_HOME", "DOCKER_CONFIG", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-credentials"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, no_credentials: None) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    no_credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[[str], str]:
    """Gives the URL of a place that nobody else uses, by its scheme."""

    def make(scheme: str) -> str:
        number = next(_numbers)
        if scheme == "file":
            return (tmp_path / f"place-{number}").as_uri()
        if scheme == "oci":
            registry = request.getfixturevalue("registry")
            return f"oci://{registry.host}/team/model-{os.getpid()}-{number}:v1"
        if scheme == "hf":
            request.getfixturevalue("hub")
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            return f"hf://org/model-{number}"
        server = request.getfixturevalue(
            {"s3": "seaweed", "az": "azurite", "gs": "fake_gcs"}[scheme]
        )
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        return f"{scheme}://{BUCKET}/{os.getpid()}/no {number}.p2u"

    return make
