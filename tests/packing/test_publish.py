"""A package over time: many versions, readers in the middle, publishers that meet or are killed."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import kit
import numpy as np
import pytest
from manifests import manifest_of
from packing_kit import Tensors, check_pull, content, model, moved, weights
from waiting import until

import p2u
from p2u import gc, publish, pull
from p2u.errors import P2UError
from p2u.package.graph import find_path
from p2u.package.manifest import Manifest
from p2u.stores.package_lock import NAME as LOCK


def small(seed: int) -> Tensors:
    return {"w": weights("BF16", 64, 128, seed=seed), "v": weights("F32", 40, 50, seed=seed)}


def next_one(tensors: Tensors, part: float, seed: int) -> Tensors:
    return {name: moved(tensor, part, seed) for name, tensor in tensors.items()}


def way(manifest: Manifest, have: str | None, want: str) -> tuple[int, int]:
    """Number and bytes of the updates that the cheapest way takes."""
    found = find_path(manifest.updates, have, want, cost=manifest.cost)
    return len(found), sum(manifest.cost(update) for update in found)


@pytest.mark.parametrize("fold", [None, 0.95])
def test_nobody_replays_a_long_chain(tmp_path: Path, fold: float | None) -> None:
    package, tensors = tmp_path / "p", small(1)
    levels, every, count = ("base", "exact"), 6, 21
    folders: list[Path] = []
    for n in range(count):
        tensors = next_one(tensors, 0.02, n)
        folders.append(model(tmp_path / f"{n}", tensors))
        parent = folders[-2] if n else None
        publish(
            folders[-1],
            package,
            parent=parent,
            anchor_every=every,
            fold=fold,
            levels=levels,
            jobs=1,
        )
        steps, _ = way(manifest_of(package), None, f"v{n + 1}@exact")
        assert steps <= len(levels) + every - 1
    manifest = manifest_of(package)
    last = f"v{count}@exact"
    _, fresh = way(manifest, None, last)
    for n in range(count):
        steps, size = way(manifest, f"v{n + 1}@exact", last)
        # The way that everybody has from nothing is an upper limit for all.
        assert size <= fresh
        if fold is not None:
            assert steps <= 2 * math.log2(count) + 1
    pull(package, tmp_path / "late", until="v1")
    check_pull(package, folders[-1], tmp_path / "late")
    check_pull(package, folders[-1], tmp_path / "new")


def test_versions_with_other_levels(tmp_path: Path) -> None:
    first, package = small(1), tmp_path / "p"
    second = next_one(first, 0.02, 1)
    publish(model(tmp_path / "1", first), package)
    levels = ("base", "6bit", "10bit", "exact")
    publish(model(tmp_path / "2", second), package, anchor=True, levels=levels)
    assert [r.version for r in manifest_of(package).releases] == ["v1", "v2"]
    assert [s.label for s in manifest_of(package).latest.states] == list(levels)
    for state in ("v1@8bit", "v2@6bit", "v2@10bit"):
        pull(package, tmp_path / state, until=state)
    check_pull(package, tmp_path / "2", tmp_path / "v2@6bit")
    check_pull(package, tmp_path / "2", tmp_path / "v1@8bit")


def test_large_changes_bring_a_base_early(tmp_path: Path) -> None:
    """However large the updates are, the way from nothing is at most some times the base's."""
    package, tensors = tmp_path / "p", small(2)
    most = 0
    for n in range(7):
        tensors = {name: moved(tensor, 1.0, n) for name, tensor in tensors.items()}
        publish(model(tmp_path / f"{n}", tensors), package, anchor_every=1000, jobs=1)
        manifest = manifest_of(package)
        steps, size = way(manifest, None, f"v{n + 1}@exact")
        alone = way(manifest, None, "v1@exact")[1]
        most = max(most, steps)
        assert size <= 3 * alone
    based = [u.target for u in manifest.updates if u.source is None]
    assert 1 < len(based) < 7
    assert 3 < most < 3 + 7


@pytest.mark.parametrize("grace", [3600.0, 0.0])
def test_gc_with_a_reader_in_the_middle(tmp_path: Path, grace: float) -> None:
    package, tensors = tmp_path / "p", small(3)
    folders = []
    for n in range(4):
        tensors = next_one(tensors, 0.3, n)
        folders.append(model(tmp_path / f"{n}", tensors, config=f"{n}"))
        publish(folders[-1], package, anchor_every=2, jobs=1)
    dst = tmp_path / "dst"
    pull(package, dst, until="v1")
    collected = []
    server, _ = kit.counting_server(package)
    with server:

        def collect(_: object) -> None:
            if not collected:
                collected.append(gc(package, keep=1, anchors=0, grace=grace))

        before = content(dst)
        try:
            pull(server.url, dst, until="v2", progress=collect, jobs=1, retry=kit.QUICK)
        except P2UError:
            # Without grace the files may be gone: then nothing was touched.
            assert grace == 0
            assert content(dst) == before
        else:
            assert content(dst) == content(folders[1])
        assert collected[0].dropped == ("v1", "v2")
        # Whoever holds a version that is no more gets to the newest one like anybody else.
        pull(server.url, dst, repair=True)
        assert content(dst) == content(folders[-1])
    for n in range(4, 6):  # it goes on
        tensors = next_one(tensors, 0.3, n)
        folders.append(model(tmp_path / f"{n}", tensors, config=f"{n}"))
        publish(folders[-1], package, anchor_every=2, jobs=1)
        check_pull(package, folders[-1], dst)
    assert [r.version for r in manifest_of(package).releases] == ["v3", "v4", "v5", "v6"]
    check_pull(package, folders[-1], tmp_path / "new")


# --- real processes


def command(*args: str | Path) -> subprocess.Popen[str]:
    """`p2u` as a process of its own."""
    root = str(Path(p2u.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "p2u", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "NO_COLOR": "1", "COLUMNS": "200"},
    )


def large(folder: Path, seed: int) -> Path:
    """A model that takes a while to publish."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal((3000, 1024), np.float32)
    values[seed :: 3000 // 50] *= np.float32(1.01)
    return model(folder, {"w": ("F32", values.shape, values.tobytes())})


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_two_trainers_at_once(tmp_path: Path) -> None:
    package = tmp_path / "p"
    first, mine, theirs = (large(tmp_path / f"{n}", n) for n in range(3))
    publish(first, package, levels=("base", "exact"))
    one = command("publish", mine, package, "--expect", "v1@exact", "--version", "mine")
    until(lambda: (package / ".p2u-stage").exists() or one.poll() is not None)
    one.send_signal(signal.SIGSTOP)
    two = command("publish", theirs, package, "--expect", "v1@exact", "--version", "theirs")
    said = two.communicate(timeout=60)[1]
    one.send_signal(signal.SIGCONT)
    assert two.returncode == 1
    assert f"process {one.pid} on " in said
    assert "publishes to this package" in said
    assert one.communicate(timeout=60) is not None
    assert one.returncode == 0
    # Too late is another error than at the same time.
    two = command("publish", theirs, package, "--expect", "v1@exact", "--version", "theirs")
    said = two.communicate(timeout=60)[1]
    assert two.returncode == 1
    assert "mine@exact" in said
    assert [r.version for r in manifest_of(package).releases] == ["v1", "mine"]
    two = command("publish", theirs, package, "--version", "theirs")
    assert two.communicate(timeout=60) is not None
    assert two.returncode == 0
    check_pull(package, theirs, tmp_path / "out")
    check_pull(package, mine, tmp_path / "mine", until="mine")
    assert sorted(p.name for p in package.iterdir() if p.name.startswith(".")) == []


@pytest.mark.slow
def test_a_crowd_of_trainers(tmp_path: Path) -> None:
    """Who is told that it went well is in the package, who is not is not."""
    package = tmp_path / "p"
    publish(model(tmp_path / "first", small(0)), package)
    names = [f"t{n}" for n in range(5)]
    folders = {name: model(tmp_path / name, small(n + 1)) for n, name in enumerate(names)}
    crowd = {name: command("publish", folders[name], package, "--version", name) for name in names}
    went_well = set()
    for name, process in crowd.items():
        said = process.communicate(timeout=120)[1]
        assert process.returncode in (0, 1), said
        if process.returncode == 0:
            went_well.add(name)
        else:
            assert "publishes to this package" in said
    versions = [r.version for r in manifest_of(package).releases]
    assert set(versions) == {"v1", *went_well}
    assert went_well
    for name in went_well:
        check_pull(package, folders[name], tmp_path / f"out-{name}", until=name)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_publisher_is_killed(tmp_path: Path) -> None:
    package = tmp_path / "p"
    first, second = (large(tmp_path / f"{n}", n) for n in range(2))
    publish(first, package, levels=("base", "exact"))
    files = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    stage = package / ".p2u-stage"
    decoded = package / ".p2u-parents" / "0" / "v1"
    for moment in (package / LOCK, stage, decoded, stage / "from-v1-exact-000.bin"):
        process = command("publish", second, package)
        until(lambda: moment.exists() or process.poll() is not None)  # noqa: B023 - called here
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert {path: path.read_bytes() for path in files} == files
        check_pull(package, first, tmp_path / "out")
    publish(second, package)
    check_pull(package, second, tmp_path / "out")
    shutil.rmtree(package / "v2")  # its files are nowhere else, and nothing was left behind
    assert {path for path in package.rglob("*") if path.is_file()} == set(files)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("then", ["pack", "publish"])
def test_a_first_publisher_is_killed(tmp_path: Path, then: str) -> None:
    src, package = large(tmp_path / "model", 0), tmp_path / "p"
    for first in ("pack", "publish"):
        process = command(first, src, package)
        until(lambda: list(tmp_path.glob(".p.*.packing/base-*.bin")) or process.poll() is not None)  # noqa: B023
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".p.*"))) == 1  # the second has removed what the first left
    getattr(p2u, then)(src, package)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "p"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_publisher_is_asked_to_end(tmp_path: Path, name: str) -> None:
    src, package = large(tmp_path / "model", 0), tmp_path / "p"
    process = command("publish", src, package)
    until(lambda: list(tmp_path.glob(".p.*.packing/base-*.bin")) or process.poll() is not None)
    number = getattr(signal, name)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "interrupted" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
