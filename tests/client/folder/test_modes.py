"""Modes: what was private stays private with the next state, whatever it has."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from kit import tree

from p2u.client.folder.pull import pull

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs modes")


def modes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".p2u")
    }


@pytest.mark.parametrize("straight", [False, True])
def test_each_file_keeps_its_mode(made, tmp_path, straight):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    wanted = {}
    for number, (name, _) in enumerate(sorted(modes(dst).items())):
        wanted[name] = (0o600, 0o640, 0o755)[number % 3]
        (dst / name).chmod(wanted[name])
    pull(made.package, dst, straight=straight)
    assert modes(dst) == wanted
    assert tree(dst) == tree(made.model)


def test_a_new_file_is_as_private_as_the_others(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    for name in modes(dst):
        (dst / name).chmod(0o600)
    (dst / "extra.npz").unlink()
    (dst / "1_Pooling" / "config.json").unlink()
    pull(made.package, dst)
    assert set(modes(dst).values()) == {0o600}
    assert tree(dst) == tree(made.model)


def test_a_state_in_the_making_is_nobody_elses(made, tmp_path):
    seen = []

    def look(progress) -> None:
        seen.extend(stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob(".dst.p2u"))

    pull(made.package, tmp_path / "dst", progress=look)
    assert set(seen) == {0o700}
