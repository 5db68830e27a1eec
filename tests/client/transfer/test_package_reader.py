"""An open package keeps its objects in a folder, until it is told to stop."""

from __future__ import annotations

import shutil
from pathlib import Path

from kit import Made

from p2u.client.transfer.package_reader import PackageReader


def test_objects_are_cached_until_the_stop(made: Made, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with PackageReader(made.package) as package:
        package.cache = cache
        base, *_, exact = package.manifest.updates
        package.index(base)
        kept = {path.name for path in cache.iterdir()}
        assert kept == {package.manifest.latest.layout.sha256, base.index.sha256}
        # The folder is removed while another thread reads ahead.
        package.stop_caching()
        shutil.rmtree(cache)
        assert package.index(exact).chunks
    assert not cache.exists()
