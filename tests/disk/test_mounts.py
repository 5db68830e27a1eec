"""Mount points, as Linux lists them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2u.disk import mounts
from p2u.disk.mounts import mounts_at


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_MOUNTS", str(path))
    lines = [
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
        r"30 22 8:1 /data /srv/my\040models rw - ext4 /dev/sda1 rw",
        "31 22 8:1 /x /srv/deep/er/config.json rw - ext4 /dev/sda1 rw",
        "broken",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/srv/my models", True),
        ("/srv/my models/below", False),
        ("/srv/deep", True),  # a file in it is a mount point
        ("/srv/deep/er/config.json", True),
        ("/srv/dee", False),
    ],
)
def test_bind_mounts_are_seen(table: Path, folder: str, found: bool) -> None:
    assert mounts_at(Path(folder)) is found


def test_without_a_table(table: Path) -> None:
    table.unlink()
    assert not mounts_at(table.parent)
    assert mounts_at(Path(os.sep))
