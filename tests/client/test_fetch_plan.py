"""The plan: what there is, when a line would have it, what is here already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kit
import pytest
from command_line import p2u as run_p2u
from versions import Versions

import p2u


@pytest.fixture
def server(made: kit.Made) -> Iterator[tuple[str, kit.CountingApp]]:
    served, app = kit.counting_server(made.package)
    with served:
        yield served.url, app


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("P2U_CACHE_SIZE")
    return tmp_path / "cache"


def test_each_state_has_its_bytes_and_its_time(made: kit.Made) -> None:
    plan = p2u.plan(made.package, rate=1e6)
    assert [s.label for s in plan.states] == [s.label for s in made.manifest.states]
    for planned, state in zip(plan.states, made.manifest.states, strict=True):
        assert planned.bytes == state.bytes and planned.seconds == planned.bytes / 1e6
        assert (planned.bits, planned.snr_db) == (state.bits, state.snr_db)
    total = sum(path.stat().st_size for path in made.model.rglob("*") if path.is_file())
    assert plan.model_bytes == total and plan.files == len(made.manifest.latest.files)
    assert not plan.measured and p2u.plan(made.package, rate="8Mbit/s").rate == 1e6


def test_an_update_is_cheaper_for_whoever_has_an_older_version(versions: Versions) -> None:
    plan = p2u.plan(versions.package, rate=1000)
    assert [v.version for v in plan.versions] == ["v2", "v1"] and plan.version == "v3"
    assert all(v.bytes < plan.states[-1].bytes and v.seconds > 0 for v in plan.versions)


def test_only_small_files_and_a_measurement_are_fetched(server, made: kit.Made) -> None:
    url, app = server
    assert not p2u.plan(url, rate=1e6, cache=False).measured
    assert app.paths == ["/p2u.json"]
    app.reset()
    assert p2u.plan(url, cache=False).rate > 0
    first = made.update("base").blobs[0].key
    assert app.paths == ["/p2u.json", f"/{first}"]


def test_what_the_cache_has_is_not_waited_for(server, cache: Path) -> None:
    url, _ = server
    assert [s.here for s in p2u.plan(url, cache=cache).states] == [0] * 3
    p2u.load(url, "base", cache=cache)
    plan = p2u.plan(url, cache=cache)
    assert all(s.bytes * 0.9 < plan.states[0].bytes for s in plan.states[:1])
    assert {s.here for s in plan.states} == {plan.states[0].here} != {0}
    assert plan.states[0].seconds < plan.states[0].bytes / plan.rate


def test_wrong_rates(made: kit.Made) -> None:
    for rate in (0, -1.0, "fast"):
        with pytest.raises(p2u.UsageError):
            p2u.plan(made.package, rate=rate)


def test_without_a_network_there_is_no_line(
    server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = server
    p2u.load(url, cache=cache)
    monkeypatch.setenv("P2U_OFFLINE", "1")
    assert p2u.plan(url, rate=1e6, cache=cache).states[-1].here > 0
    with pytest.raises(p2u.UsageError, match="Give one"):
        p2u.plan(url, cache=cache)


def test_the_command(versions: Versions) -> None:
    said = run_p2u("plan", versions.package, "--rate", "20Mbit/s")
    assert said.status == 0 and "20.0 Mbit/s (given)" in said.out
    assert "from version" in said.out and "v1" in said.out
    tree = json.loads(run_p2u("plan", versions.package, "--json").out)
    assert tree["measured"] and len(tree["versions"]) == 2
