"""Torrents of packages: real clients fetch them, in a swarm and from a web server alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nginx import Nginx, free_port
from packing_kit import content, model, moved, snapshot, weights
from servers import find_program, missing
from swarm import Client, Tracker, check_library
from waiting import until

import p2u
from p2u.errors import FormatError, NotFoundError, UnsupportedError, UsageError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {f"w{n}": weights("F32", 128, 256, seed=n) for n in range(6)}
    return model(tmp_path_factory.mktemp("source") / "m", tensors)


@pytest.fixture
def package(source: Path, tmp_path: Path) -> Path:
    check_library()
    path = tmp_path / "served" / "model of ours.p2u"
    path.parent.mkdir()
    p2u.publish(source, path, blob_size=100_000)
    (path / "left-over").write_bytes(b"no part of the package")
    return path


def check(folder: Path, package: Path, source: Path, tmp_path: Path) -> None:
    """What came is the package, and the model in it is the publisher's."""
    got = {path: data for path, data in snapshot(folder).items() if ".pad" not in path}
    left = {"left-over"}
    assert got == {path: data for path, data in snapshot(package).items() if path not in left}
    p2u.verify(folder)
    p2u.pull(folder, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(source)


def aria2(torrent: Path, folder: Path) -> None:
    program = find_program("aria2c")
    if program is None:
        missing("aria2", "Debian: apt-get install aria2")
    subprocess.run(
        [
            *(program, "--no-conf", "--quiet", "--seed-time=0", "--bt-enable-lpd=false"),
            *("--enable-dht=false", "--enable-dht6=false", "--enable-peer-exchange=false"),
            *(f"--listen-port={free_port()}", f"--dir={folder}", "--file-allocation=none"),
            str(torrent),
        ],
        check=True,
        timeout=120,
        capture_output=True,
    )


def test_a_swarm(package: Path, source: Path, tmp_path: Path) -> None:
    made = p2u.torrent(package)
    assert made.path == f"{package}.torrent"
    with (
        Client(Path(made.path), package.parent) as seed,
        Client(Path(made.path), tmp_path / "got") as other,
    ):
        until(seed.is_complete)
        other.connect(seed)
        until(other.is_complete)
    check(tmp_path / "got" / package.name, package, source, tmp_path)


def test_a_web_server_alone(package: Path, source: Path, tmp_path: Path) -> None:
    with Nginx(package.parent) as server:
        url = f"{server.url}/{package.name.replace(' ', '%20')}"
        made = p2u.torrent(package, tmp_path / "a.torrent", web_seed=[url])
        with Client(Path(made.path), tmp_path / "got") as client:
            until(client.is_complete)
    check(tmp_path / "got" / package.name, package, source, tmp_path)


@pytest.mark.parametrize("v1", [False, True])
def test_the_base_comes_first(v1: bool, package: Path, tmp_path: Path) -> None:
    """In order, or by a choice of files: it is usable long before the rest is here."""
    made = p2u.torrent(package, v1=v1)
    with (
        Client(Path(made.path), package.parent) as seed,
        Client(Path(made.path), tmp_path / "got", in_order=v1, limit=1_000_000) as client,
    ):
        until(seed.is_complete)
        if v1:
            assert made.base == (1, 2, 3, 4)
            assert made.base_end < 0.35 * made.bytes
            wanted = set(range((made.base_end - 1) // made.piece + 1))
        else:
            wanted = client.select(made.base)
        client.connect(seed)
        came: list[int] = []

        def base_is_here() -> bool:
            came.extend(client.pieces())
            return wanted <= set(came)

        until(base_is_here)
    last = max(map(came.index, wanted))
    assert last < 0.6 * made.bytes / made.piece
    assert v1 or set(came) == wanted
    p2u.pull(tmp_path / "got" / package.name, tmp_path / "base", until="base")
    p2u.pull(package, tmp_path / "expected", until="base")
    assert content(tmp_path / "base") == content(tmp_path / "expected")


def test_aria2_in_a_swarm(package: Path, source: Path, tmp_path: Path) -> None:
    with Tracker() as tracker:
        made = p2u.torrent(package, v1=True, tracker=[tracker.url])
        with Client(Path(made.path), package.parent) as seed:
            until(lambda: seed.is_complete() and tracker.ports)
            aria2(Path(made.path), tmp_path / "got")
    check(tmp_path / "got" / package.name, package, source, tmp_path)


def test_aria2_and_a_web_server_alone(package: Path, source: Path, tmp_path: Path) -> None:
    with Nginx(package.parent) as server:
        url = f"{server.url}/{package.name.replace(' ', '%20')}"
        made = p2u.torrent(package, v1=True, web_seed=[url])
        aria2(Path(made.path), tmp_path / "got")
    check(tmp_path / "got" / package.name, package, source, tmp_path)


def test_a_later_version(package: Path, source: Path, tmp_path: Path) -> None:
    """Its torrent has the files of the one before under the same names: they are not fetched."""
    p2u.torrent(package)
    got = tmp_path / "got"
    shutil.copytree(package, got / package.name)
    tensors = {f"w{n}": weights("F32", 128, 256, seed=n) for n in range(6)}
    second = model(tmp_path / "2", {**tensors, "w0": moved(tensors["w0"], 0.1)})
    p2u.publish(second, package)
    made = p2u.torrent(package)
    with Client(Path(made.path), package.parent) as seed, Client(Path(made.path), got) as other:
        until(seed.is_complete)
        other.connect(seed)
        until(other.is_complete)
        assert other.handle.status().total_payload_download < 0.5 * made.bytes
    p2u.pull(got / package.name, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(second)


def test_one_package_has_one_hash(package: Path, tmp_path: Path) -> None:
    """So that the swarms of two publishers are one."""
    copy = tmp_path / "copy" / package.name
    shutil.copytree(package, copy)
    one, two = p2u.torrent(package), p2u.torrent(copy, tracker=["udp://127.0.0.1:1/announce"])
    assert (one.sha1, one.sha256) == (two.sha1, two.sha256)
    assert one.sha256 is not None and one.sha256 in one.magnet
    assert p2u.torrent(package, v1=True).sha256 is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"web_seed": ["https://example.org/other.p2u"]}, "Rename the folder"),
        ({"web_seed": ["ftp://example.org/model of ours.p2u"]}, "not a URL"),
        ({"web_seed": ["https://a:b@example.org/model of ours.p2u"]}, "without credentials"),
        ({"web_seed": ["https://example.org/model of ours.p2u?sig=1"]}, "no query"),
        ({"tracker": ["example.org"]}, "not a URL"),
    ],
)
def test_urls_that_no_client_could_use(words, said: str, package: Path) -> None:
    with pytest.raises(UsageError) as caught:
        p2u.torrent(package, **words)
    assert said in str(caught.value)
    assert "a:b" not in str(caught.value)
    assert not Path(f"{package}.torrent").exists()


def test_a_package_that_is_not_complete(package: Path, tmp_path: Path) -> None:
    blob = package / "exact-000.bin"
    data = blob.read_bytes()
    blob.write_bytes(data[:-1])
    with pytest.raises(FormatError, match="exact-000"):
        p2u.torrent(package)
    blob.unlink()
    with pytest.raises(NotFoundError, match="exact-000"):
        p2u.torrent(package)
    with pytest.raises(NotFoundError):
        p2u.torrent(tmp_path / "nothing")
    assert not Path(f"{package}.torrent").exists()


def test_without_the_library(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'p2u-models\[torrent\]'"):
        p2u.torrent(package)
