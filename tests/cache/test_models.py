"""Models from the cache: the next start, other processes, no network, damage on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import following
import kit
import numpy as np
import pytest
from command_line import p2u as run_p2u

import p2u
from p2u.package.paths import MANIFEST_KEY

MANIFEST = f"/{MANIFEST_KEY}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2U_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("P2U_CACHE_SIZE")
    return tmp_path / "home"


@pytest.fixture
def server(made: kit.Made) -> Iterator[tuple[str, kit.CountingApp]]:
    served, app = kit.counting_server(made.package)
    with served:
        yield served.url, app


def objects(cache: Path) -> list[Path]:
    return [path for path in (cache / "objects").rglob("*") if path.is_file()]


def files(url: str, until: str = "exact", **options: object) -> tuple[list[str], dict[str, bytes]]:
    """The states that a live model had, and its files at the end."""
    states: list[str] = []
    with p2u.open(url, until=until, **options) as replica:  # type: ignore[arg-type]
        replica.on_state(states.append)
        replica.wait()
        return states, following.files(replica)


def test_the_second_start_asks_for_the_manifest_only(cache: Path, server, made: kit.Made) -> None:
    url, app = server
    _, first = files(url, straight=False)
    app.reset()
    states, second = files(url)
    assert app.paths == [MANIFEST]
    assert second == first and states == ["exact"], "the best state that is here comes first"


def test_a_start_goes_on_from_what_is_here(cache: Path, server, made: kit.Made) -> None:
    url, app = server
    files(url, until="base")
    here = len(objects(cache))
    app.reset()
    states, _ = files(url)
    assert states[0] == "base" and states[-1] == "exact"
    update = made.update("base")
    assert not {f"/{blob.key}" for blob in update.blobs} & set(app.paths)
    assert len(objects(cache)) > here


def test_an_interrupted_download_is_not_lost(cache: Path, server, made: kit.Made) -> None:
    url, app = server
    total = sum(path.stat().st_size for path in made.package.iterdir())
    app.hold_back(after=total // 2)
    with p2u.open(url, jobs=1) as replica:
        assert app.silent.wait(30)
        replica.cancel()
    here = sum(path.stat().st_size for path in objects(cache))
    app.reset()
    files(url)
    assert here > 0 and app.sent <= total - here + (1 << 16)


def test_without_a_network(cache: Path, server, monkeypatch: pytest.MonkeyPatch) -> None:
    url, app = server
    whole = files(url)[1]
    app.reset()
    monkeypatch.setenv("P2U_OFFLINE", "1")
    assert files(url)[1] == whole and not app.paths
    for attempt in (
        lambda: p2u.load(f"{url}/another"),
        lambda: p2u.load(f"{url}/another", cache=False),
        lambda: p2u.pull(f"{url}/another", cache / "target"),
    ):
        with pytest.raises(p2u.NotFoundError, match="P2U_OFFLINE"):
            attempt()
    p2u.pull(url, cache / "target")
    assert not app.paths


def test_without_a_network_the_best_state_here_serves(
    cache: Path, server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = server
    files(url, until="base")
    monkeypatch.setenv("P2U_OFFLINE", "1")
    with p2u.open(url) as replica:
        replica.wait("base")
        with pytest.raises(p2u.StoreError, match="forbids the network"):
            replica.wait("exact")
        assert replica.state == "base"


def test_a_server_that_is_gone(
    cache: Path, made: kit.Made, caplog: pytest.LogCaptureFixture
) -> None:
    served, _ = kit.counting_server(made.package)
    with served:
        whole = files(served.url)[1]
    with caplog.at_level("WARNING", "p2u.cache"):
        assert files(served.url)[1] == whole
    assert "going on with the manifest that was read last" in caplog.text


def test_damage_on_the_disk_is_fetched_again(cache: Path, server) -> None:
    url, app = server
    whole = files(url)[1]
    for number, path in enumerate(sorted(objects(cache))):
        data = bytearray(path.read_bytes())
        data[number % len(data)] ^= 1 << number % 8
        path.write_bytes(data)
    app.reset()
    assert files(url)[1] == whole and app.sent > 0
    app.reset()
    assert files(url)[1] == whole and app.paths == [MANIFEST], "it was mended, too"


def test_no_cache_when_none_is_wanted(cache: Path, server, tmp_path: Path) -> None:
    url, _ = server
    files(url, cache=False)
    assert not cache.exists()
    files(url, cache=tmp_path / "elsewhere")
    assert not cache.exists() and objects(tmp_path / "elsewhere")


def test_local_packages_are_not_copied(cache: Path, made: kit.Made) -> None:
    files(str(made.package))
    assert not cache.exists()


def test_a_cache_smaller_than_the_model_is_none_the_worse(
    cache: Path, server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = server
    monkeypatch.setenv("P2U_CACHE_SIZE", "64KiB")
    assert files(url)[1] == files(url)[1]
    assert sum(path.stat().st_size for path in objects(cache)) <= 64 << 10
    monkeypatch.setenv("P2U_CACHE_SIZE", "much")
    with pytest.raises(p2u.UsageError, match="P2U_CACHE_SIZE"):
        p2u.load(url)


def test_load_and_pull(cache: Path, server, tmp_path: Path) -> None:
    url, app = server
    arrays = p2u.load(url)
    app.reset()
    again = p2u.load(url)
    assert all(np.array_equal(arrays[n].view(np.uint8), again[n].view(np.uint8)) for n in arrays)
    p2u.pull(url, tmp_path / "model", cache=True)
    assert set(app.paths) == {MANIFEST}
    app.reset()
    p2u.pull(url, tmp_path / "other")
    assert set(app.paths) != {MANIFEST}, "a pull does without unless it is asked"


@pytest.mark.slow
def test_processes_of_one_machine_fetch_a_model_once(cache: Path, server, made: kit.Made) -> None:
    url, app = server
    code = "import p2u, sys; p2u.load(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    total = sum(path.stat().st_size for path in made.package.iterdir())
    manifest = (made.package / MANIFEST_KEY).stat().st_size
    # Chunks that several threads fetch together may be claimed twice.
    assert app.sent <= 1.1 * total + 4 * manifest


def test_versions_share_what_they_share(cache: Path, server, made: kit.Made) -> None:
    url, app = server
    files(url)
    sent = app.sent
    app.reset()
    with p2u.open(f"{url}/{MANIFEST_KEY}") as replica:  # another URL of the same package
        replica.wait()
    assert app.sent < sent / 10


def test_the_command(cache: Path, server) -> None:
    url, _ = server
    assert "0 B of at most" in run_p2u("cache", "ls").out
    files(url, until="8bit")
    listed = json.loads(run_p2u("cache", "ls", "--json").out)
    (package,) = listed["packages"]
    assert package["url"] == url and package["states"][-1] == "8bit"
    assert 0 < package["bytes"] <= listed["bytes"]
    assert url in run_p2u("cache", "ls").out
    path = objects(cache)[0]
    assert run_p2u("cache", "verify").status == 0
    os.truncate(path, 1)
    said = run_p2u("cache", "verify")
    assert said.status == 1 and "was removed" in said.err and not path.exists()
    assert json.loads(run_p2u("cache", "prune", "--older-than", "1d", "--json").out)["files"] == 0
    assert json.loads(run_p2u("cache", "prune", "--all", "--json").out)["files"] > 0
    assert not objects(cache) and "packages" in run_p2u("cache", "ls", "--json").out
    assert json.loads(run_p2u("cache", "ls", "--json").out)["packages"] == []
