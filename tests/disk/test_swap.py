"""Replacing a folder: by an exchange, by two renames, and when it fails in between."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from pathlib import Path

import pytest

from p2u.disk import swap
from p2u.disk.swap import exchange, replace_folder


@pytest.fixture(params=[True, False])
def exchanging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system can exchange folders."""
    if not request.param:
        monkeypatch.setattr(swap, "exchange", lambda *_: False)
    elif sys.platform not in ("linux", "darwin"):
        pytest.skip("this system cannot exchange folders")
    return request.param


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "text").write_text(text)
    return path


def test_nothing_there(tmp_path: Path) -> None:
    new = folder(tmp_path / "new", "new")
    assert replace_folder(new, tmp_path / "target", tmp_path / "old") is None
    assert (tmp_path / "target" / "text").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_replaced(tmp_path: Path, exchanging: bool) -> None:
    new, target = folder(tmp_path / "new", "new"), folder(tmp_path / "target", "old")
    left = replace_folder(new, target, tmp_path / "old")
    assert left == tmp_path / ("new" if exchanging else "old")
    assert (target / "text").read_text() == "new"
    assert (left / "text").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["target", left.name])


def test_the_second_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "exchange", lambda *_: False)
    new, target = folder(tmp_path / "new", "new"), folder(tmp_path / "target", "old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if self == new:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        replace_folder(new, target, tmp_path / "old")
    assert (target / "text").read_text() == "old"
    assert (new / "text").read_text() == "new"
    assert not (tmp_path / "old").exists()


def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "exchange", lambda *_: False)
    new, target = folder(tmp_path / "new", "new"), folder(tmp_path / "target", "old")
    rename = Path.rename

    class Killed(BaseException):
        pass

    def die(self: Path, to: Path) -> Path:
        if self == new:
            raise Killed
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(Killed):
        replace_folder(new, target, tmp_path / "old")
    assert (tmp_path / "old" / "text").read_text() == "old"
    assert (new / "text").read_text() == "new"
    assert not target.exists()


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="has no exchange")
class TestExchange:
    def test_both_must_exist(self, tmp_path: Path) -> None:
        one = folder(tmp_path / "one", "1")
        with pytest.raises(FileNotFoundError):
            exchange(str(one), str(tmp_path / "two"))
        assert (one / "text").read_text() == "1"

    @pytest.mark.parametrize("code", ["ENOSYS", "EINVAL", "ENOTSUP", "EXDEV", "EBUSY", "no call"])
    def test_a_system_that_lacks_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
    ) -> None:
        class Library:
            def __init__(self, *_: object, **__: object) -> None:
                if code != "no call":
                    self.renameat2 = self.renamex_np = lambda *_: -1

        monkeypatch.setattr(ctypes, "CDLL", Library)
        monkeypatch.setattr(ctypes, "get_errno", lambda: getattr(errno, code, 0))
        new, target = folder(tmp_path / "new", "new"), folder(tmp_path / "target", "old")
        if code in ("EXDEV", "EBUSY"):  # a mount point, which no rename can move either
            with pytest.raises(OSError, match=str(target)):
                replace_folder(new, target, tmp_path / "old")
            assert (target / "text").read_text() == "old"
        else:
            assert replace_folder(new, target, tmp_path / "old") == tmp_path / "old"
            assert (target / "text").read_text() == "new"

    def test_never_a_moment_without(self, tmp_path: Path) -> None:
        """Two replace one folder again and again; its path leads to one of theirs at any time."""
        target = folder(tmp_path / "target", "0")
        ended = threading.Event()
        seen: set[str] = set()
        lost: list[OSError] = []

        def look() -> None:
            while not ended.is_set():
                try:
                    fd = os.open(target, os.O_RDONLY)
                except OSError as error:
                    lost.append(error)
                else:
                    try:
                        with open(os.open("text", os.O_RDONLY, dir_fd=fd)) as file:
                            seen.add(file.read())
                    finally:
                        os.close(fd)

        def publish(name: str) -> None:
            new = folder(tmp_path / name, name)
            for _ in range(100):
                left = replace_folder(new, target, tmp_path / f"{name}.old")
                assert left == new

        reader = threading.Thread(target=look)
        writers = [threading.Thread(target=publish, args=(name,)) for name in "12"]
        for thread in (reader, *writers):
            thread.start()
        for thread in writers:
            thread.join(60)
        ended.set()
        reader.join(60)
        assert lost == []
        assert seen <= {"0", "1", "2"}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "target"]
        assert {(tmp_path / p / "text").read_text() for p in ("1", "2", "target")} == set("012")
