"""Packing that fails, or is interrupted, leaves nothing behind and touches nothing of others."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from packing_kit import check_exact, decode, safetensors, snapshot, weights

from p2u.codec import core
from p2u.errors import DiskError, FormatError, IntegrityError, P2UError, UsageError
from p2u.package.geometry import Piece
from p2u.packing.api import pack
from p2u.packing.engines.local import LocalEngine
from p2u.packing.engines.places import FolderPlace
from p2u.packing.levels import read_back, state_hashes
from p2u.packing.package_folder import blobs
from p2u.packing.report import PackProgress


def stop(at: str) -> Any:
    def progress(p: PackProgress) -> None:
        if p.phase == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("phase", ["measure", "encode", "verify", "publish"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_interrupted_leaves_nothing(
    model: Path, tmp_path: Path, phase: str, jobs: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(model, tmp_path / "p", jobs=jobs, progress=stop(phase))
    assert list(tmp_path.iterdir()) == []


def test_an_older_package_is_replaced_at_the_end(model: Path, tmp_path: Path) -> None:
    dst = tmp_path / "p"
    pack(model, dst, bits=3)
    before = snapshot(dst)
    with pytest.raises(KeyboardInterrupt):
        pack(model, dst, replace=True, progress=stop("publish"))
    assert snapshot(dst) == before
    pack(model, dst, replace=True)
    assert snapshot(dst) != before
    check_exact(decode(dst), model)
    assert list(tmp_path.iterdir()) == [dst]


def test_an_empty_directory_and_missing_parents_do(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pack(model, tmp_path / "empty")
    pack(model, tmp_path / "a" / "b" / "c")
    check_exact(decode(tmp_path / "a" / "b" / "c"), model)
    mode = (tmp_path / "empty").stat().st_mode & 0o777
    assert mode == (tmp_path / "a").stat().st_mode & 0o777  # readable for a web server


def test_foreign_directories_are_left_alone(model: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("precious")
    file = tmp_path / "file"
    file.write_text("precious")
    package = tmp_path / "package"
    pack(model, package)
    (package / "mine.txt").write_text("precious")
    other = tmp_path / "other"
    other.mkdir()
    (other / "p2u.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for dst, match in [
        (full, "not empty"),
        (file, "is a file"),
        (package, "mine.txt"),
        (other, "cannot be read"),
        (model, "outside"),
        (model / "sub", "outside"),
        (model.parent, "outside"),
    ]:
        with pytest.raises(UsageError, match=match):
            pack(model, dst, replace=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (model / "sub").exists()


def test_arguments(model: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"bits": 0.5},
        {"bits": 9},
        {"bits": math.nan},
        {"levels": ["base"]},
        {"levels": ["exact", "base"]},
        {"levels": ["base", "4bit", "exact"]},
        {"levels": ["base", "8bit", "6bit", "exact"]},
        {"levels": []},
        {"jobs": 0},
        {"blob_size": 0},
        {"name": "\ud800"},
    ]
    for arguments in wrong:
        with pytest.raises(UsageError):
            pack(model, tmp_path / "p", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        pack(tmp_path / "missing", tmp_path / "p")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FormatError, match="no model file"):
        pack(empty, tmp_path / "p")
    safetensors(empty / "a.safetensors", {})
    with pytest.raises(FormatError, match="no tensors"):
        pack(empty, tmp_path / "p")
    safetensors(empty / "a.safetensors", {"w": weights("F32", 64, 64)})
    (empty / ".p2u").mkdir()
    pack(empty, tmp_path / "p")  # hidden names are not part of a model
    (empty / "A.safetensors").write_bytes((empty / "a.safetensors").read_bytes())
    if len(list(empty.glob("?.safetensors"))) == 2:  # the file system tells case
        with pytest.raises(FormatError, match="same on some systems"):
            pack(empty, tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_a_truncated_model(model: Path, tmp_path: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    src = tmp_path / "m.safetensors"
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        src.write_bytes(data[:length])
        with pytest.raises(P2UError) as caught:
            pack(src, tmp_path / "p")
        assert "m.safetensors" in str(caught.value)
    assert list(tmp_path.iterdir()) == [src]


@pytest.mark.parametrize("phase", ["measure", "encode"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_model_that_changes_meanwhile(tmp_path: Path, phase: str, cut: bool) -> None:
    src = tmp_path / "m.safetensors"
    safetensors(src, {f"w{n}": weights("F32", 1024, 600, seed=n) for n in range(3)})
    os.utime(src, (1, 1))
    data = bytearray(src.read_bytes())
    data[-2] ^= 0x7F

    def change(p: PackProgress) -> None:
        if p.phase == phase:
            src.write_bytes(data[: len(data) // (2 if cut else 1)])

    # The reports come while the last tensor is still to be read.
    with pytest.raises(IntegrityError, match="ended at" if cut else "was written to"):
        pack(src, tmp_path / "p", jobs=1, progress=change)
    assert list(tmp_path.iterdir()) == [src]


def test_a_change_after_all_was_read_does_not_matter(tmp_path: Path) -> None:
    src = tmp_path / "m.safetensors"
    safetensors(src, {"w": weights("F32", 100, 60)})
    before = src.read_bytes()

    def change(p: PackProgress) -> None:
        if p.phase == "publish":
            src.unlink(missing_ok=True)

    pack(src, tmp_path / "p", progress=change)
    assert decode(tmp_path / "p").states[-1] == [before]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_does_not_decode_to_the_model_is_not_published(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, level: int
) -> None:
    encode = core.encode

    def faulty(*arguments: Any, **options: Any) -> core.Encoded:
        made = encode(*arguments, **options)
        if len(made.payloads) == 3:
            bad = bytearray(made.payloads[level])
            bad[-1 - len(bad) // 3] ^= 1
            made.payloads[level] = bytes(bad)
        return made

    monkeypatch.setattr(core, "encode", faulty)
    with pytest.raises(IntegrityError, match="does not decode to the original"):
        pack(model, tmp_path / "p", jobs=jobs)
    assert list(tmp_path.iterdir()) == []


def test_pieces_that_do_not_decompress_to_the_model_are_not_published(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(_: bytes, pieces: Sequence[Piece], __: str) -> bytes:
        return bytes(sum(piece.size for piece in pieces))

    monkeypatch.setattr(read_back, "decode_pieces", zeros)
    with pytest.raises(IntegrityError, match="does not decode to the original"):
        pack(model, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_blobs_that_change_before_they_are_read_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where chunks have to be decoded a second time, their payloads are checked."""
    monkeypatch.setattr(state_hashes, "KEEP", 1)
    add = blobs.BlobWriter.add

    def damaged(self: blobs.BlobWriter, payload: bytes) -> tuple[int, int]:
        bad = bytearray(payload)
        bad[len(bad) // 2] ^= 1
        return add(self, bytes(bad))

    monkeypatch.setattr(blobs.BlobWriter, "add", damaged)
    with pytest.raises(IntegrityError, match="not what was written"):
        pack(model, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DiskError, match="No space left") as caught:
        pack(model, tmp_path / "p")
    assert "disk space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_is_full_when_the_buffer_is_flushed(tmp_path: Path) -> None:
    (tmp_path / "x-000.bin").symlink_to("/dev/full")
    engine, place = LocalEngine(1), FolderPlace(tmp_path)
    writer = blobs.BlobWriter(engine, place, "y", 100)
    writer.add(b"1")
    writer.finish()
    with pytest.raises(DiskError, match="File exists"):
        blobs.BlobWriter(engine, place, "x", 100).add(b"1")


def test_no_permission(model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(DiskError, match=r"[Pp]ermission"):
        pack(model, locked / "p")
