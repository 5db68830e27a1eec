"""What is special about folders: links, devices, permissions, files that change."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from store_contract import BLOB, OBJECTS, objects, write_objects

from p2u.errors import DiskError, FormatError, NotFoundError, StoreError, UsageError
from p2u.stores import LocalStore

__all__ = ["objects"]


def link(path: Path, target: str | Path) -> None:
    try:
        path.symlink_to(target)
    except OSError as error:  # Windows without the privilege
        pytest.skip(f"no symbolic links here: {error}")


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "..", "blobs/../../secret"])
def test_links_that_lead_out(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_bytes(b"not for you")
    root = write_objects(tmp_path / "package")
    link(root / "link", target)
    for key in ("link", "link/secret"):
        for attempt in (
            lambda key=key: LocalStore(root).read(key, limit=1000),
            lambda key=key: list(LocalStore(root).stream(key, 0, 3)),
        ):
            with pytest.raises(FormatError, match="leads out"):
                attempt()


def test_links_that_stay_inside(tmp_path: Path) -> None:
    root = write_objects(tmp_path / "package")
    link(root / "link", BLOB)
    link(root / "folder", "blobs")
    link(tmp_path / "other name", "package")
    store = LocalStore(tmp_path / "other name")
    for key in ("link", "folder/base-00.bin"):
        assert b"".join(store.stream(key, 10, 10)) == OBJECTS[BLOB][10:20]


def test_a_link_to_itself(tmp_path: Path) -> None:
    link(tmp_path / "loop", "loop")
    with pytest.raises(NotFoundError):
        LocalStore(tmp_path).read("loop", limit=10)


def test_a_neighbour_whose_name_begins_alike(tmp_path: Path) -> None:
    root = write_objects(tmp_path / "package")
    write_objects(tmp_path / "package2")
    link(root / "link", "../package2/p2u.json")
    with pytest.raises(FormatError):
        LocalStore(root).read("link", limit=100)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    caught: list[BaseException] = []

    def run() -> None:
        try:
            LocalStore(tmp_path).read("fifo", limit=10)
        except NotFoundError as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=3)
    assert caught
    assert "regular file" in str(caught[0])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(DiskError, match="ermission"):
        LocalStore(tmp_path).read("closed", limit=10)


@pytest.mark.parametrize("number", ["EACCES", "EIO", "EMFILE", "ESTALE"])
def test_errors_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    import errno

    root = write_objects(tmp_path)

    def fail(*_: object) -> int:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("p2u.stores.local.os.open", fail)
    with pytest.raises(DiskError) as caught:
        LocalStore(root).read("p2u.json", limit=100)
    assert "p2u.json" in str(caught.value)
    assert caught.value.hint


def test_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        LocalStore(tmp_path / "absent")
    with pytest.raises(NotFoundError, match="no such folder"):
        LocalStore(tmp_path / "absent" / "p2u.json")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="is a file"):
        LocalStore(tmp_path / "model.safetensors")
    with pytest.raises(UsageError):
        LocalStore("a\0b")
    with pytest.raises((NotFoundError, DiskError)):
        LocalStore("x" * 5000)


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    root = write_objects(tmp_path)
    pieces = LocalStore(root).stream(BLOB, 0, len(OBJECTS[BLOB]))
    next(pieces)
    with (root / BLOB).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(StoreError, match="1000"):
        list(pieces)


def test_no_descriptor_is_left_open(objects: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("needs /proc")
    store = LocalStore(objects)
    before = len(list(folder.iterdir()))
    for _ in range(10):
        pieces = store.stream(BLOB, 0, 1000)
        next(pieces)
        pieces.close()
        with pytest.raises(StoreError):
            list(store.stream(BLOB, 10**9, 1))
        with pytest.raises(StoreError):
            store.read("blobs", limit=10)
    assert len(list(folder.iterdir())) == before
