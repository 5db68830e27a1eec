"""Many processes pull from one server at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kit import Made
from nginx import Nginx
from packing_kit import content


@pytest.mark.slow
def test_all_are_exact(made: Made, tmp_path: Path) -> None:
    with Nginx(made.package) as server:
        folders = [tmp_path / str(number) for number in range(4)]
        processes = [
            subprocess.Popen([sys.executable, "-m", "p2u", "pull", server.url, folder, "--quiet"])
            for folder in folders
        ]
        assert [process.wait(120) for process in processes] == [0] * len(folders)
    for folder in folders:
        assert content(folder) == content(made.model)
