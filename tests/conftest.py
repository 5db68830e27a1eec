"""What all tests share; Hypothesis profiles.

``HYPOTHESIS_PROFILE`` chooses one, else it is ``ci`` under CI and ``dev``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import kit
import pytest
import versions as versions_kit
from hypothesis import HealthCheck, settings
from places import azurite, fake_gcs, hub, no_credentials, place, registry, seaweed

__all__ = ["azurite", "fake_gcs", "hub", "no_credentials", "place", "registry", "seaweed"]

# Deadlines are off everywhere: the machines that run this are shared, and a slow example is
# not a wrong one. CI is derandomised so that a red run can be repeated.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile(
    "fuzz", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_flushed() -> Iterator[None]:
    """Files are not forced onto the disk, which takes long where others use it, too.

    No test cuts the power. Processes that tests start do force them.
    """

    def fsync(fd: int) -> None:
        os.fstat(fd)  # it has to be open

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_cached() -> Iterator[None]:
    """What a test fetches is not there for the next one; tests of the cache say where it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2U_CACHE_SIZE", "0")
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> kit.Made:
    """A model, its package and its states; nobody changes them."""
    return kit.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> versions_kit.Versions:
    """A package of three releases and its models; nobody changes them."""
    return versions_kit.make_versions(tmp_path_factory.mktemp("versions"))
