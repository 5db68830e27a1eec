"""Modes and owners of files that take the place of others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from p2u.disk.access import restrict, set_mode, take_over

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs modes")


def file(path: Path, mode: int) -> Path:
    path.write_text("")
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_as_private_as_the_former(tmp_path: Path) -> None:
    former, new = file(tmp_path / "former", 0o640), file(tmp_path / "new", 0o644)
    take_over(new, former.stat())
    assert mode(new) == 0o640


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_root_gives_files_to_their_former_owner(tmp_path: Path) -> None:
    former, new = file(tmp_path / "former", 0o600), file(tmp_path / "new", 0o644)
    os.chown(former, 12345, 54321)
    take_over(new, former.stat())
    assert (new.stat().st_uid, new.stat().st_gid, mode(new)) == (12345, 54321, 0o600)


def test_the_owner_keeps_their_bits(tmp_path: Path) -> None:
    new = file(tmp_path / "new", 0o644)
    restrict(new, 0o440)
    assert mode(new) == 0o640


def test_where_there_are_no_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    new = file(tmp_path / "new", 0o644)
    former = file(tmp_path / "former", 0o600).stat()
    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "chown", refuse)
    set_mode(new, 0o600)
    take_over(new, former)
    assert mode(new) == 0o644
