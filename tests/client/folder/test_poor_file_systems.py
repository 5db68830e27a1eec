"""Pulls to file systems that refuse what they can refuse, all at once (CIFS, Lustre, FUSE)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from kit import tree
from pulling import leftovers

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.disk import swap
from p2u.packing.api import publish

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(params=[errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def poor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    code = request.param

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in ("fsync", "chmod", "chown", "link", "utime"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(swap, "exchange", lambda *_: False)


@pytest.mark.parametrize("in_place", [False, True])
def test_pull(made, tmp_path, poor, in_place):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "mine.txt").write_text("mine")
    for label in ("8bit", "exact"):
        pull(made.package, dst, until=label, in_place=in_place)
        assert made.label(dst) == label
    assert tree(dst) == {**tree(made.model), "mine.txt": b"mine"}
    verify(dst)
    assert leftovers(tmp_path) == []


def test_publish(made, tmp_path, poor):
    publish(made.model, tmp_path / "pkg")
    pull(tmp_path / "pkg", tmp_path / "dst")
    assert tree(tmp_path / "dst") == tree(made.model)


def test_files_that_are_read_only(made, tmp_path):
    """The next state's files have their modes when a killed run is gone on with."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    for path in dst.rglob("*.*"):
        if path.is_file() and not path.name.startswith(".p2u"):
            path.chmod(0o444)
    for label in ("8bit", "exact"):
        pull(made.package, dst, until=label)
    assert tree(dst) == tree(made.model)
    assert (dst / "config.json").stat().st_mode & 0o777 == 0o444
