"""Files at an offset: short files, files that are none, copies and links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2u.disk.files import (
    PIECE,
    copy_range,
    link_or_copy,
    open_file,
    read_all_at,
    read_at,
    read_from,
    remove_tree,
    write_at,
)


@pytest.mark.parametrize(
    ("offset", "size", "count"), [(0, 10, 10), (4, 6, 6), (4, 7, 6), (10, 1, 0), (99, 5, 0)]
)
def test_reading_at(tmp_path: Path, offset: int, size: int, count: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    out = bytearray(size)
    with open_file(path, "rb") as file:
        assert read_at(file, offset, out) == count
        assert bytes(out[:count]) == b"0123456789"[offset:][:size]
        if count < size:
            with pytest.raises(OSError, match="shorter"):
                read_all_at(file, offset, out)
        else:
            read_all_at(file, offset, out)
    assert read_from(path, offset, out) == count
    assert read_from(str(path), offset, memoryview(out)) == count
    assert read_from(path, offset, bytearray()) == 0


def test_only_regular_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        read_from(tmp_path, 0, bytearray(1))
    if not Path(os.devnull).is_file():
        with pytest.raises(OSError, match="not a regular file"):
            read_from(os.devnull, 0, bytearray(1))


def test_copying_a_range(tmp_path: Path) -> None:
    data = os.urandom(PIECE + 77)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(b"x" * 10)
    with open_file(tmp_path / "a", "rb") as a, open_file(tmp_path / "b", "rb+") as b:
        copy_range(a, 5, b, 3, len(data) - 5)
        write_at(b, 0, memoryview(b"yy"))
        with pytest.raises(OSError, match="shorter"):
            copy_range(a, 5, b, 3, len(data))
    assert (tmp_path / "b").read_bytes()[: len(data) - 2] == b"yyx" + data[5:]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"
    assert (tmp_path / "b").samefile(tmp_path / "a") is links


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "link").symlink_to("folder")
    remove_tree(tmp_path / "link")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    remove_tree(tmp_path / "missing")
    remove_tree(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
