"""The engine ray: the same bytes as the local engine's, whatever happens to its workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import documents
import engine_kit
import pytest
from kit import tree
from packing_kit import check_pull, content, safetensors, weights
from waiting import until

import p2u
from p2u.adapters.ray import engine as ray_engine
from p2u.adapters.ray.cluster import RayCluster
from p2u.errors import IntegrityError, UsageError, WorkerError
from p2u.packing.engines.choice import open_engine
from p2u.packing.report import PackProgress
from p2u.packing.settings import make_settings
from p2u.stores import open_writable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model at two times."""
    root = tmp_path_factory.mktemp("models")
    return [engine_kit.shards(root / f"m{n}", n) for n in range(2)]


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a small model has many tasks."""
    monkeypatch.setattr(ray_engine, "UNIT", 60_000)


def workers_of(parent: int) -> list[int]:
    """The processes below another one that do a task of ours just now."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found = []
    for pid, name in names.items():
        above = pid
        while above not in (0, 1, parent):
            above = parents.get(above, 0)
        if above == parent and name.startswith((b"ray::run_unit", b"ray::write_blob")):
            found.append(pid)
    return found


def test_versions_are_the_same(
    cluster: RayCluster, small_units: None, models: list[Path], tmp_path: Path
) -> None:
    for engine in ("local", "ray"):
        for model in models:
            p2u.publish(
                model, tmp_path / engine, engine=engine, name="m", anchor=True, blob_size=100_000
            )
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    check_pull(tmp_path / "ray", models[1], tmp_path / "pulled")


def test_a_budget_is_kept(cluster: RayCluster, models: list[Path], tmp_path: Path) -> None:
    for engine in ("local", "ray"):
        p2u.pack(models[0], tmp_path / engine, name="m", engine=engine, base_ratio=0.3)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_from_a_bucket_to_a_bucket(
    cluster: RayCluster, models: list[Path], tmp_path: Path, place: Callable[[str], str]
) -> None:
    source, package = place("s3"), place("s3")
    with open_writable(source) as store:
        for key, data in content(models[0]).items():
            store.put(key, data)
    p2u.publish(source, package, engine="ray", name="m", blob_size=100_000)
    p2u.publish(models[0], tmp_path / "local", name="m", blob_size=100_000)
    with open_writable(package) as store:
        for key, data in tree(tmp_path / "local").items():
            assert store.read(key, limit=1 << 24) == data


class Killer:
    """Kills workers at random moments, so many of them."""

    def __init__(self, count: int) -> None:
        self.killed = 0
        self._left = count
        self._random = random.Random(5)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while self._left and not self._end.wait(self._random.uniform(0, 0.1)):
            if found := workers_of(os.getpid()):
                os.kill(self._random.choice(found), signal.SIGKILL)
                self.killed += 1
                self._left -= 1


def test_workers_are_killed(cluster: RayCluster, small_units: None, tmp_path: Path) -> None:
    """Again and again, in the middle of tasks: the package is the same."""
    model = tmp_path / "model"
    model.mkdir()
    tensors = {f"layers.{n}.w": weights("BF16", 1000, 512, seed=n) for n in range(4)}
    safetensors(model / "model.safetensors", tensors)
    p2u.pack(model, tmp_path / "local", blob_size=500_000)
    with Killer(6) as killer:
        p2u.pack(model, tmp_path / "ray", blob_size=500_000, engine="ray")
    assert killer.killed > 2
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_a_worker_that_always_dies(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    with (
        open_engine(make_settings(engine="ray")) as engine,
        pytest.raises(WorkerError, match=r"a worker ended, again and again.*fewer workers"),
    ):
        list(engine.run(engine_kit.DeadlyWork(), [1], 1))


def test_errors_of_workers_are_ours(
    cluster: RayCluster, models: list[Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tensors = {f"layers.{n}.w": weights("F32", 600, 512, seed=n) for n in range(4)}
    safetensors(model / "model.safetensors", tensors)

    def cut(progress: PackProgress) -> None:
        if progress.phase == "measure" and progress.done:
            os.truncate(model / "model.safetensors", 1 << 20)

    with pytest.raises(IntegrityError, match=r"model.safetensors: it ended at byte 1048576"):
        p2u.pack(model, tmp_path / "p", engine="ray", progress=cut)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_addresses() -> None:
    with pytest.raises(UsageError, match="Ray client"):
        open_engine(make_settings(engine="ray", ray_address="ray://host:10001"))


def test_interrupted(models: list[Path], tmp_path: Path) -> None:
    """Ctrl-C in the middle: one message, no package, no process, no file of Ray."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # sockets need a short name
    big = tmp_path / "model"
    big.mkdir()
    tensors = {f"layers.{n}.w": weights("BF16", 4000, 2048, seed=n) for n in range(4)}
    safetensors(big / "model.safetensors", tensors)
    program = "import sys; sys.argv[0] = 'p2u'; from p2u.cli import main; main()"
    words = ["pack", str(big), str(tmp_path / "p"), "--engine", "ray", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        until(lambda: workers_of(process.pid) or process.poll() is not None, 200)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (
        130,
        "p2u: interrupted; run the same command again to go on\n",
    )
    until(lambda: not workers_of(process.pid))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    folder.rmdir()


def test_the_commands_of_the_page_run(
    cluster: RayCluster, models: list[Path], tmp_path: Path, place: Callable[[str], str]
) -> None:
    """Those of docs/scale.md, on a cluster that is there."""
    ray = pytest.importorskip("ray")
    address = ray.get_runtime_context().gcs_address
    source, package = place("s3"), place("s3")
    with open_writable(source) as store:
        for key, data in content(models[0]).items():
            store.put(key, data)
    (tmp_path / "model").symlink_to(models[0])
    text = (documents.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    found = documents.commands(text.replace("```shell", "```sh"))
    assert [words[0] for words in found] == ["pack", "publish"]
    with documents.running(tmp_path) as runner:
        for words in found:
            urls = {"s3://bucket/model": source, "s3://bucket/model.p2u": package}
            words = [urls.get(word, word) for word in words]
            runner.run([*words, "--ray-address", address])
    p2u.verify(tmp_path / "model.p2u")
    p2u.verify(package)
