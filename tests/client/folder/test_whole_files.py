"""Folders with the same model share its blocks with the cache, where the file system can."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub
from kit import Made
from nginx import Nginx
from packing_kit import content

import p2u
from p2u.disk.reflink import reflink


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with reflinks, in a file."""
    root = tmp_path_factory.mktemp("xfs")
    image, folder = root / "image", root / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(3 << 30)  # of which the cache leaves 1 GiB free
    for command in (["mkfs.xfs", "-q", image], ["mount", "-o", "loop", image, folder]):
        if shutil.which(command[0]) is None or subprocess.run(command, check=False).returncode:
            pytest.skip(f"{command[0]} is not possible here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(params=["xfs", "stand-in"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder where reflinks work, or files are copied in their stead; the cache is in it."""
    place = tmp_path
    if request.param == "xfs":
        place = request.getfixturevalue("xfs") / tmp_path.name
        place.mkdir()
    else:

        def copied(source: Path, target: Path, mode: int = 0o666) -> bool:
            assert not target.exists()
            shutil.copyfile(source, target)
            return True

        monkeypatch.setattr("p2u.cache.objects.reflink", copied)
    monkeypatch.setenv("P2U_CACHE_SIZE", "1GB")
    monkeypatch.setenv("P2U_HOME", str(place / "cache"))
    yield place
    if place != tmp_path:
        shutil.rmtree(place)


@pytest.fixture
def url(made: Made) -> Iterator[str]:
    with Nginx(made.package) as server:
        yield server.url


def test_a_second_folder_fetches_and_decodes_nothing(
    place: Path, url: str, made: Made, tmp_path: Path
) -> None:
    first = p2u.pull(url, place / "1", cache=True)
    second = p2u.pull(url, place / "2", cache=True)
    assert content(place / "1") == content(place / "2") == content(made.model)
    assert second.fetched < 0.05 * first.fetched
    assert second.cached == 0
    p2u.verify(place / "2")


def test_what_is_done_to_a_folder_stays_there(place: Path, url: str, made: Made) -> None:
    p2u.pull(url, place / "1", cache=True)
    for path in (place / "1").rglob("*"):
        if path.is_file() and not path.name.startswith(".p2u"):
            with path.open("rb+") as file:
                file.write(b"mine")
    p2u.pull(url, place / "2", cache=True)
    assert content(place / "2") == content(made.model)


def test_damaged_files_of_the_cache_are_made_anew(place: Path, url: str, made: Made) -> None:
    p2u.pull(url, place / "1", cache=True)
    largest = max((place / "1").rglob("*"), key=lambda path: path.stat().st_size)
    for path in (place / "cache" / "objects").rglob("*"):
        if path.is_file() and path.stat().st_size == largest.stat().st_size:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    p2u.pull(url, place / "2", cache=True)
    assert content(place / "2") == content(made.model)
    p2u.pull(url, place / "3", cache=True)
    assert content(place / "3") == content(made.model)


def test_an_older_folder_and_another_state(place: Path, url: str, made: Made) -> None:
    p2u.pull(url, place / "1", cache=True)
    p2u.pull(url, place / "2", cache=True, until="base")
    assert content(place / "2") != content(made.model)
    p2u.pull(url, place / "2", cache=True)
    assert content(place / "2") == content(made.model)


def test_nothing_is_kept_without_the_cache(place: Path, url: str) -> None:
    p2u.pull(url, place / "1")
    assert not (place / "cache").exists()


def test_plain_files(place: Path, hub: Hub, made: Made) -> None:
    """Of a repository without a package: the large ones, whose SHA-256 the Hub states."""
    files = content(made.model)
    hub.add("org/plain", files)
    first = p2u.pull("hf://org/plain", place / "1", cache=True)
    second = p2u.pull("hf://org/plain", place / "2", cache=True)
    assert content(place / "1") == content(place / "2") == content(made.model)
    assert second.fetched < 0.2 * first.fetched
    for path in (place / "cache" / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    p2u.pull("hf://org/plain", place / "3", cache=True)
    assert content(place / "3") == content(made.model)


def test_where_there_are_no_reflinks(
    url: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole files would take as much again: only chunks are kept."""
    monkeypatch.setenv("P2U_CACHE_SIZE", "1GB")
    monkeypatch.setenv("P2U_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("p2u.cache.objects.reflink", lambda *args: False)
    first = p2u.pull(url, tmp_path / "1", cache=True)
    second = p2u.pull(url, tmp_path / "2", cache=True)
    assert second.cached > 0.9 * first.fetched
    assert content(tmp_path / "2") == content(made.model)
    objects = (tmp_path / "cache" / "objects").rglob("*")
    kept = sum(path.stat().st_size for path in objects if path.is_file())
    assert kept < 1.1 * first.fetched


def test_reflinks(xfs: Path, tmp_path: Path) -> None:
    source = xfs / "source"
    source.write_bytes(os.urandom(1 << 20))
    used = shutil.disk_usage(xfs).used
    assert reflink(source, xfs / "target")
    assert shutil.disk_usage(xfs).used < used + (1 << 19)
    assert (xfs / "target").read_bytes() == source.read_bytes()
    with pytest.raises(FileExistsError):
        reflink(source, xfs / "target")
    assert not reflink(source, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
