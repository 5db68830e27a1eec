"""Weights from a trainer to those who use them: errors, restarts, kills, two trainers."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kit
import pytest

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from training import Trainer, equal, steps  # noqa: E402

import p2u  # noqa: E402
from p2u.client.transfer.package_reader import PackageReader  # noqa: E402
from p2u.errors import (  # noqa: E402
    BusyError,
    ConflictError,
    FormatError,
    IntegrityError,
    StoreError,
    UsageError,
)

Publisher, Subscriber = p2u.sync.Publisher, p2u.sync.Subscriber
publisher_module = importlib.import_module("p2u.adapters.sync.publisher")


def test_errors_are_raised_by_the_next_call(tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer()
    real = p2u.publish
    publisher = Publisher(tmp_path / "pkg")
    monkeypatch.setattr(publisher_module, "publish", lambda *a, **o: 1 / 0)
    publisher.publish(trainer.model)
    with pytest.raises(ZeroDivisionError):
        publisher.flush(30)
    publisher.publish(trainer.model)
    while publisher._error is None:
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        publisher.publish(trainer.model)
    monkeypatch.setattr(publisher_module, "publish", real)
    publisher.publish(trainer.model)
    publisher.close()
    assert len(publisher.published) == 1
    with Subscriber(tmp_path / "pkg") as subscriber:
        assert subscriber.apply(trainer.model) == 1


def test_a_callback_that_fails_ends_nothing(tmp_path: Path) -> None:
    trainer, told = Trainer(), []

    def tell(found) -> None:
        told.append(found.step)
        if len(told) == 1:
            raise ZeroDivisionError

    with Publisher(tmp_path / "pkg", on_published=tell) as publisher:
        publisher.publish(trainer.model, 1)
        with pytest.raises(ZeroDivisionError):
            publisher.flush(60)
        trainer.train()
        publisher.publish(trainer.model, 2)
        publisher.flush(60)
        assert [found.step for found in publisher.published] == told == [1, 2]


def test_somebody_else_collects(tmp_path: Path, monkeypatch) -> None:
    """The version is published all the same."""

    def gc(*_: object, **__: object) -> None:
        raise BusyError("somebody is at it")

    monkeypatch.setattr(publisher_module, "gc", gc)
    with Publisher(tmp_path / "pkg", keep=1) as publisher:
        publisher.publish(Trainer().model, 1)
        publisher.flush(60)
        assert [found.step for found in publisher.published] == [1]


def test_a_publisher_that_fails_at_once_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "p2u.json").write_text("{")
    for _ in range(2):
        with pytest.raises(FormatError):
            Publisher(tmp_path / "pkg")
    (tmp_path / "pkg" / "p2u.json").unlink()
    Publisher(tmp_path / "pkg").close()


def test_what_cannot_be_published(tmp_path: Path) -> None:
    with Publisher(tmp_path / "pkg") as publisher:
        for bad in ({}, {"a": 1}, {"a": {"b": torch.zeros(2)}}):
            with pytest.raises(UsageError):
                publisher.publish(bad)
        with pytest.raises(UsageError):
            publisher.publish(nets.Net(), -1)
    for options in ({"anchor_every": 0}, {"keep": 0}, {"when_busy": "panic"}, {"dtype": "int8"}):
        with pytest.raises(UsageError):
            Publisher(tmp_path / "pkg", **options)
    with pytest.raises(UsageError):
        Publisher(tmp_path / "pkg", files=tmp_path / "nothing")
    with pytest.raises(UsageError, match="directory"):
        Subscriber(tmp_path / "pkg", in_place=True)


def test_tensors_that_are_not_all_there(tmp_path: Path) -> None:
    """Shards, tensors on the meta device and sparse ones get clear messages."""
    distributed = pytest.importorskip("torch.distributed.tensor")
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        shard = distributed.distribute_tensor(torch.zeros(4), mesh, [distributed.Shard(0)])
        with Publisher(tmp_path / "pkg") as publisher:
            for tensor, words in (
                (shard, "full_tensor"),
                (torch.zeros(4, device="meta"), "meta"),
                (torch.eye(4).to_sparse(), "sparse"),
            ):
                with pytest.raises(UsageError, match=words):
                    publisher.publish({"w": tensor})
            publisher.publish({"w": shard.full_tensor()})
    finally:
        torch.distributed.destroy_process_group()
    assert steps(tmp_path / "pkg") == ["step0"]


def test_a_publisher_that_is_made_again_continues(tmp_path: Path) -> None:
    """From the newest exact state, the same step again too; late ones find an anchor near."""
    trainer, model = Trainer(), nets.Net()
    subscriber = Subscriber(tmp_path / "pkg")
    for start in range(3):
        with Publisher(tmp_path / "pkg", anchor_every=2) as publisher:
            for _ in range(2):
                trainer.train()
                publisher.publish(trainer.model, trainer.step)
                publisher.flush(60)
            assert subscriber.apply(model) == (2 if start else 1)
        assert equal(model, trainer.state())
        trainer.step -= 1  # as from a checkpoint
    assert steps(tmp_path / "pkg") == ["step1", "step2", "step2.1", "step3", "step3.1", "step4"]
    manifest = PackageReader(tmp_path / "pkg").manifest
    anchors = [u.target for u in manifest.updates if u.source is None]
    assert len(anchors) == 3
    with Publisher(tmp_path / "pkg") as publisher:
        trainer.train()
        publisher.publish(trainer.model)
    assert steps(tmp_path / "pkg")[-1] == "step5"
    with Subscriber(tmp_path / "pkg") as late:
        assert late.apply(model) == 1
    assert equal(model, trainer.state())
    subscriber.close()


def test_two_publishers(tmp_path: Path) -> None:
    """The second one gets a clear error, and nothing is lost."""
    trainer = Trainer()
    with Publisher(tmp_path / "pkg") as publisher:
        trainer.train()
        publisher.publish(trainer.model, trainer.step)
        publisher.flush(60)
        with pytest.raises(BusyError, match="another publisher"):
            Publisher(tmp_path / "pkg")
        # One on another machine, which shares only the package.
        (tmp_path / "other").mkdir()
        nets.save_file({"w": torch.zeros(4)}, tmp_path / "other" / "model.safetensors")
        p2u.publish(tmp_path / "other", tmp_path / "pkg", version="mine", force=True)
        before = steps(tmp_path / "pkg")
        for _ in range(2):
            trainer.train()
            publisher.publish(trainer.model, trainer.step)
            with pytest.raises(ConflictError):
                publisher.flush(60)
    assert steps(tmp_path / "pkg") == before == ["step1", "mine"]
    assert p2u.verify(tmp_path / "pkg", decode=True)


TRAIN = """
import sys, torch, p2u
sys.path.insert(0, sys.argv[2])
import training
trainer = training.Trainer()
with p2u.sync.Publisher(sys.argv[1], anchor_every=3, when_busy="wait") as publisher:
    start = max((int(v[4:].split(".")[0]) for v in training.steps(sys.argv[1])), default=0) \\
        if (training.Path(sys.argv[1]) / "p2u.json").exists() else 0
    while trainer.step < start:
        trainer.train()
    print("begin", flush=True)
    while True:
        trainer.train()
        publisher.publish(trainer.model, trainer.step)
        print(trainer.step, flush=True)
"""

FOLLOW = """
import sys, p2u
sys.path.insert(0, sys.argv[3])
import nets
model = nets.Net()
with p2u.sync.Subscriber(sys.argv[1], directory=sys.argv[2]) as subscriber:
    print("begin", flush=True)
    while True:
        if subscriber.apply(model):
            print(subscriber.step, flush=True)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    root = str(Path(p2u.__file__).parent.parent)
    here = Path(nets.__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), str(here)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((root, str(here)))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    return process


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_both_sides_are_killed_again_and_again(tmp_path: Path) -> None:
    """Real processes, kill -9: what a subscriber has is exactly what the model was at its step."""
    package, got = tmp_path / "pkg", tmp_path / "got"
    expected = {}
    trainer = Trainer()
    for kill in range(3):
        publishing = child(TRAIN, package)
        assert publishing.stdout is not None
        for _ in range(3):
            assert publishing.stdout.readline()
        following = child(FOLLOW, package, got)
        assert following.stdout is not None
        assert following.stdout.readline()
        time.sleep(0.05 * kill)
        for process in (publishing, following):
            process.send_signal(signal.SIGKILL)
            process.wait(20)
            process.stdout.close()
        newest = steps(package)[-1]
        with Subscriber(package, directory=got) as subscriber:
            model = nets.Net()
            assert subscriber.apply(model) == 1
            assert subscriber.version == newest
            while trainer.step < (subscriber.step or 0):
                trainer.train()
                expected[trainer.step] = trainer.state()
            assert equal(model, expected[subscriber.step])
    p2u.verify(package, decode=True)
    assert len(steps(package)) >= 6


def test_broken_and_unreachable_packages_leave_the_model(tmp_path: Path) -> None:
    trainer, model = Trainer(), nets.Net()
    package = tmp_path / "pkg"
    subscriber = Subscriber(package, retry=kit.QUICK)
    with pytest.raises(StoreError):
        subscriber.apply(model)
    with Publisher(package) as publisher:
        trainer.train()
        publisher.publish(trainer.model, 1)
        publisher.flush(60)
        assert subscriber.apply(model) == 1
        before = trainer.state()
        trainer.train()
        publisher.publish(trainer.model, 2)
        publisher.flush(60)
        with PackageReader(package) as opened:
            (update,) = [u for u in opened.manifest.updates if u.target == "step2@exact"]
        blob = package / update.blobs[0].key
        good = blob.read_bytes()
        blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        for _ in range(2):
            with pytest.raises(IntegrityError):
                subscriber.apply(model)
            assert equal(model, before) and subscriber.step == 1
        blob.write_bytes(good)
        assert subscriber.apply(model) == 1
        assert equal(model, trainer.state())
    with Subscriber(package) as other:
        for stranger, why in (
            (torch.nn.Linear(3, 3), "shape"),
            (torch.nn.ModuleDict({"other": torch.nn.Linear(3, 3)}), "does not have"),
        ):
            with pytest.raises(UsageError, match=why):
                other.apply(stranger)
    subscriber.close()
