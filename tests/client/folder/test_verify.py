"""Verifying packages and pulled directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kit import STATES
from pulling import flip

from p2u.client.folder.verify import verify
from p2u.errors import FormatError, IntegrityError, NotFoundError, P2UError


def test_verify_a_package(made):
    report = verify(made.package, decode=True)
    assert (report.kind, report.states, report.decoded) == ("package", STATES, True)
    assert report.chunks == sum(u.chunks for u in made.manifest.updates)
    assert report.bytes == sum(p.stat().st_size for p in made.package.iterdir())


def test_verify_finds_a_flipped_bit_in_every_file(package):
    for file in sorted(package.iterdir()):
        flip(file, file.stat().st_size // 2)
        with pytest.raises(P2UError):
            verify(package)
        flip(file, file.stat().st_size // 2)
    verify(package)


def test_verify_a_directory(made, tmp_path):
    dst = Path(shutil.copytree(made.states["8bit"], tmp_path / "dst"))
    assert verify(dst).states == ("8bit",)
    flip(dst / "model-00002-of-00002.safetensors", 5000)
    with pytest.raises(IntegrityError, match="model-00002"):
        verify(dst)
    (dst / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        verify(dst)


def test_verify_what_is_neither(tmp_path):
    with pytest.raises(FormatError, match="neither"):
        verify(tmp_path)
    with pytest.raises(NotFoundError):
        verify(tmp_path / "nothing")
