"""One cluster for all tests of the engine ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import servers
from servers import SeaweedFS, missing

from p2u.adapters.ray.cluster import RayCluster

WORKERS = 2


@pytest.fixture(scope="session")
def cluster(seaweed: SeaweedFS) -> Iterator[RayCluster]:
    """Ray in this process, which engines find and keep; its workers reach the bucket."""
    if find_spec("ray") is None:
        missing("Ray", "pip install 'ray==2.55.*'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.variables.items():
            patch.setenv(name, value)
        # Workers import what tests give them.
        places = str(Path(servers.__file__).parent), os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        found = RayCluster(WORKERS, None, 256 << 20)
        found.start()
    yield found
    found.close()
