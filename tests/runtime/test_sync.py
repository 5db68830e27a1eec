"""Weights from a trainer to those who use them."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import documents
import kit
import pytest

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import p2u  # noqa: E402
from p2u._client.package import Package  # noqa: E402
from p2u.errors import (  # noqa: E402
    BusyError,
    ConflictError,
    FormatError,
    IntegrityError,
    StoreError,
    UsageError,
)
from p2u.runtime.sync.snapshot import Snapshot, tensors_of  # noqa: E402

Publisher, Subscriber = p2u.sync.Publisher, p2u.sync.Subscriber
publisher_module = importlib.import_module("p2u.runtime.sync.publisher")


class Trainer:
    """A small model, and something like steps of training."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nets.Net()
        self.random = torch.Generator().manual_seed(seed)
        self.step = 0

    def train(self) -> None:
        self.step += 1
        with torch.no_grad():
            for parameter in self.model.parameters():
                mask = torch.rand(parameter.shape, generator=self.random) < 0.05
                noise = torch.randn(parameter.shape, generator=self.random)
                parameter += 1e-4 * mask * noise
            self.model.norm.num_batches_tracked += 1

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def equal(model, state: dict[str, torch.Tensor]) -> bool:
    mine = model if isinstance(model, dict) else model.state_dict()
    return all(torch.equal(mine[name], value.to(mine[name].dtype)) for name, value in state.items())


def steps(package: Path) -> list[str]:
    with Package(package) as opened:
        return [release.version for release in opened.manifest.releases]


def test_from_step_to_step(tmp_path: Path) -> None:
    """In place, bitwise, tied weights and integers too; nothing new costs nothing."""
    trainer, other = Trainer(), nets.Net()
    places = [p.data_ptr() for p in (*other.parameters(), *other.buffers())]
    with Publisher(tmp_path / "pkg") as publisher, Subscriber(tmp_path / "pkg") as subscriber:
        for _ in range(4):
            trainer.train()
            assert publisher.publish(trainer.model, trainer.step)
            publisher.flush(60)
            assert subscriber.apply(other) == 1
            assert (subscriber.step, subscriber.version) == (trainer.step, f"step{trainer.step}")
            assert equal(other, trainer.state())
            assert subscriber.apply(other) == 0
        assert [p.data_ptr() for p in (*other.parameters(), *other.buffers())] == places
        assert other.head.weight is other.embed.weight
        assert [found.step for found in publisher.published] == [1, 2, 3, 4]
        assert all(found.snapshot < found.seconds for found in publisher.published)
        sizes = [found.bytes for found in publisher.published]
        assert max(sizes[1:]) < 0.3 * sizes[0]
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]


def test_who_is_slow_leaves_versions_out(tmp_path: Path) -> None:
    trainer = Trainer()
    models = [nets.Net() for _ in range(3)]
    with Publisher(tmp_path / "pkg", when_busy="wait") as publisher:
        trainer.train()
        publisher.publish(trainer.model)
        publisher.flush(60)
        subscribers = [Subscriber(tmp_path / "pkg") for _ in models]
        assert [s.apply(m) for s, m in zip(subscribers, models, strict=True)] == [1, 1, 1]
        for number in range(1, 5):
            trainer.train()
            publisher.publish(trainer.model)
            publisher.flush(60)
            assert subscribers[0].apply(models[0]) == 1
            if number % 2 == 0:
                assert subscribers[1].apply(models[1]) == 2
        assert subscribers[2].apply(models[2]) == 4
    for model, subscriber in zip(models, subscribers, strict=True):
        assert equal(model, trainer.state())
        assert subscriber.step == 4  # from 0, where nobody names them
        subscriber.close()


def test_a_directory_for_engines(tmp_path: Path) -> None:
    """Configuration and tokenizer travel along; a new subscriber goes on from it."""
    extra, got = tmp_path / "extra", tmp_path / "got"
    (extra / "1_Pooling").mkdir(parents=True)
    (extra / "config.json").write_text('{"model_type": "net"}')
    (extra / "1_Pooling" / "config.json").write_text("{}")
    (extra / "tokenizer.json").write_text("words " * 1000)
    (extra / "model.safetensors").write_bytes(b"not this one")
    trainer = Trainer()
    server, app = kit.counting_server(tmp_path)
    with Publisher(tmp_path / "pkg", files=extra, dtype="bfloat16") as publisher, server:
        url = f"{server.url}/pkg"
        for number in range(3):
            trainer.train()
            publisher.publish(trainer.model, trainer.step)
            publisher.flush(60)
            app.reset()
            model = nets.Net().to(torch.bfloat16)
            with Subscriber(url, directory=got) as subscriber:
                assert subscriber.apply(model) == 1
                assert subscriber.apply(model) == 0
                assert subscriber.apply(None) == 1 and subscriber.apply() == 0
            assert equal(model, {k: _cast(v) for k, v in trainer.state().items()})
            found = load_file(got / "model.safetensors")
            assert "head.weight" not in found and found["embed.weight"].dtype == torch.bfloat16
            assert equal(model, found)
            assert (got / "tokenizer.json").read_text() == "words " * 1000
            assert json.loads((got / "config.json").read_text()) == {"model_type": "net"}
            assert (got / "1_Pooling" / "config.json").exists()
            if number:
                assert not any("tokenizer" in path or "base" in path for path in app.paths)


def _cast(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def test_publish_takes_a_snapshot_and_does_not_wait(tmp_path: Path, monkeypatch) -> None:
    """What was given may be changed at once; the newest snapshot replaces one that waits."""
    real, go_on = p2u.publish, threading.Event()

    def slow(*args, **options):
        assert go_on.wait(30)
        return real(*args, **options)

    monkeypatch.setattr(publisher_module.p2u, "publish", slow)
    trainer = Trainer()
    kept = {}
    with Publisher(tmp_path / "pkg") as publisher:
        begin = time.monotonic()
        for number in range(5):
            trainer.train()
            kept[trainer.step] = trainer.state()
            assert publisher.publish(trainer.model, trainer.step) is (number < 2)
            while not number and publisher._waiting is not None:
                time.sleep(0.001)  # the first one is being encoded
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter += 1
        assert time.monotonic() - begin < 5 and publisher.skipped == 3
        with pytest.raises(TimeoutError):
            publisher.flush(0.05)
        go_on.set()
        publisher.flush(60)
        assert [found.step for found in publisher.published] == [1, 5]
    model = nets.Net()
    with Subscriber(tmp_path / "pkg") as subscriber:
        subscriber.apply(model)
        assert equal(model, kept[5])
    with Package(tmp_path / "pkg") as package:
        assert [s.id for s in package.manifest.states if s.label == "exact"] == [
            "step1@exact",
            "step5@exact",
        ]
    p2u.pull(tmp_path / "pkg", tmp_path / "first", until="step1")
    assert equal(load_file(tmp_path / "first" / "model.safetensors"), _without_ties(kept[1]))


def _without_ties(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name != "head.weight"}


def test_waiting_publishes_every_step(tmp_path: Path) -> None:
    trainer = Trainer()
    with Publisher(tmp_path / "pkg", when_busy="wait") as publisher:
        for _ in range(4):
            trainer.train()
            assert publisher.publish(trainer.state(), trainer.step)
    assert [found.step for found in publisher.published] == [1, 2, 3, 4]
    assert publisher.skipped == 0
    with pytest.raises(UsageError, match="closed"):
        publisher.publish(trainer.model)


def test_errors_are_raised_by_the_next_call(tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer()
    real = p2u.publish
    publisher = Publisher(tmp_path / "pkg")
    monkeypatch.setattr(publisher_module.p2u, "publish", lambda *a, **o: 1 / 0)
    publisher.publish(trainer.model)
    with pytest.raises(ZeroDivisionError):
        publisher.flush(30)
    publisher.publish(trainer.model)
    while publisher._error is None:
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        publisher.publish(trainer.model)
    monkeypatch.setattr(publisher_module.p2u, "publish", real)
    publisher.publish(trainer.model)
    publisher.close()
    assert len(publisher.published) == 1
    with Subscriber(tmp_path / "pkg") as subscriber:
        assert subscriber.apply(trainer.model) == 1


@pytest.mark.parametrize("directory", [None, "got"])
def test_each_model_gets_its_own(directory: str | None, tmp_path: Path) -> None:
    """Modules, dicts of tensors and none at all, through one subscriber."""
    trainer, one, two = Trainer(), nets.Net(), nets.Net()
    names = dict.fromkeys(n for n, _ in one.named_parameters())
    tensors = [{n: torch.zeros_like(one.get_parameter(n)) for n in names} for _ in range(2)]
    target = tmp_path / directory if directory else None
    publisher = Publisher(tmp_path / "pkg")
    with publisher, Subscriber(tmp_path / "pkg", directory=target) as subscriber:
        for _ in range(2):
            trainer.train()
            publisher.publish(trainer.model, trainer.step)
            publisher.flush(60)
            for given in (None, tensors[0], one, tensors[1], two):
                assert subscriber.apply(given) == 1
                assert subscriber.apply(given if given is None else _again(given)) == 0
            for model in (one, two, *tensors):
                wanted = {n: v for n, v in trainer.state().items() if n in names}
                assert equal(model, wanted)


def _again(model):
    return {n: p[:] for n, p in model.items()} if isinstance(model, dict) else model


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
    for options in ({"every_anchor": 0}, {"keep": 0}, {"when_busy": "panic"}, {"dtype": "int8"}):
        with pytest.raises(UsageError):
            Publisher(tmp_path / "pkg", **options)
    with pytest.raises(UsageError):
        Publisher(tmp_path / "pkg", files=tmp_path / "nothing")
    with pytest.raises(UsageError, match="directory"):
        Subscriber(tmp_path / "pkg", in_place=True)


def test_a_publisher_that_is_made_again_continues(tmp_path: Path) -> None:
    """From the newest exact state, the same step again too; late ones find an anchor near."""
    trainer, model = Trainer(), nets.Net()
    subscriber = Subscriber(tmp_path / "pkg")
    for start in range(3):
        with Publisher(tmp_path / "pkg", every_anchor=2) as publisher:
            for _ in range(2):
                trainer.train()
                publisher.publish(trainer.model, trainer.step)
                publisher.flush(60)
            assert subscriber.apply(model) == (2 if start else 1)
        assert equal(model, trainer.state())
        trainer.step -= 1  # as from a checkpoint
    assert steps(tmp_path / "pkg") == ["step1", "step2", "step2.1", "step3", "step3.1", "step4"]
    manifest = Package(tmp_path / "pkg").manifest
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


def test_old_versions_go(tmp_path: Path) -> None:
    """A subscriber whose version has gone comes to the newest all the same."""
    trainer, model = Trainer(), nets.Net()
    with Publisher(tmp_path / "pkg", every_anchor=2, keep=2, grace=0.0) as publisher:
        subscriber = Subscriber(tmp_path / "pkg", directory=tmp_path / "got")
        for number in range(7):
            trainer.train()
            publisher.publish(trainer.model, trainer.step)
            publisher.flush(60)
            if number == 0:
                assert subscriber.apply(model) == 1
    assert len(steps(tmp_path / "pkg")) < 6
    assert subscriber.apply(model) >= 1
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
        p2u.publish(tmp_path / "other", tmp_path / "pkg", version="mine")
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
import test_sync
trainer = test_sync.Trainer()
with p2u.sync.Publisher(sys.argv[1], every_anchor=3, when_busy="wait") as publisher:
    start = max((int(v[4:].split(".")[0]) for v in test_sync.steps(sys.argv[1])), default=0) \\
        if (test_sync.Path(sys.argv[1]) / "p2u.json").exists() else 0
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
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), str(here)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((root, str(here.parent)))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    return process


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
        with Package(package) as opened:
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


def test_adapters_and_optimizers_are_tensors(tmp_path: Path) -> None:
    """LoRA weights, and what AdamW keeps, of several dtypes, by names."""
    torch.manual_seed(1)
    lora = {
        f"base.layers.{n}.q.lora_{x}.weight": torch.randn(*shape) * 0.02
        for n in range(3)
        for x, shape in (("A", (8, 384)), ("B", (384, 8)))
    }
    net = torch.nn.Sequential(torch.nn.Linear(96, 256), torch.nn.Linear(256, 8))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def flat() -> dict[str, torch.Tensor]:
        return {
            f"state.{number}.{key}": value
            for number, slot in optimizer.state_dict()["state"].items()
            for key, value in slot.items()
        }

    def step() -> None:
        optimizer.zero_grad()
        net(torch.randn(16, 96)).square().mean().backward()
        optimizer.step()

    step()
    for name, tensors in (("lora", lambda: lora), ("adamw", flat)):
        package = tmp_path / name
        got = {key: torch.zeros_like(value) for key, value in tensors().items()}
        with Publisher(package) as publisher, Subscriber(package) as subscriber:
            for _ in range(3):
                publisher.publish(tensors())
                publisher.flush(60)
                assert subscriber.apply(got) == 1
                assert equal(got, tensors())
                step()
                for value in lora.values():
                    value += 1e-5 * torch.randn_like(value)
        p2u.pull(package, tmp_path / f"{name}-got")
        assert load_file(tmp_path / f"{name}-got" / "model.safetensors").keys() == got.keys()


def test_several_at_once_while_it_publishes(tmp_path: Path) -> None:
    """Threads, each with its model and pace: whatever they have is one published step."""
    trainer = Trainer()
    expected: dict[int, dict[str, torch.Tensor]] = {}
    ended = threading.Event()

    def follow(pace: float) -> int:
        model, count = nets.Net(), 0
        with Subscriber(tmp_path / "pkg", every=pace) as subscriber:
            while True:
                last = ended.is_set()
                if subscriber.apply(model):
                    count += 1
                    assert equal(model, expected[subscriber.step])
                elif last and subscriber.step == trainer.step:
                    return count
                time.sleep(pace)

    with Publisher(tmp_path / "pkg", when_busy="wait") as publisher:
        trainer.train()
        expected[1] = trainer.state()
        publisher.publish(trainer.model, 1)
        publisher.flush(60)
        with ThreadPoolExecutor(3) as pool:
            followers = [pool.submit(follow, pace) for pace in (0.0, 0.01, 0.2)]
            for _ in range(5):
                trainer.train()
                expected[trainer.step] = trainer.state()
                publisher.publish(trainer.model, trainer.step)
            publisher.flush(60)
            ended.set()
            counts = [f.result(timeout=60) for f in followers]
    assert all(count >= 2 for count in counts)


def test_a_model_of_transformers_brings_its_configuration(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    with Publisher(tmp_path / "pkg", dtype=torch.bfloat16) as publisher:
        publisher.publish(model, 0)
    with Subscriber(tmp_path / "pkg", directory=tmp_path / "got") as subscriber:
        assert subscriber.apply() == 1 and subscriber.step == 0
    other = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "got", dtype="auto")
    assert other.dtype == torch.bfloat16
    assert equal(other, {n: _cast(v) for n, v in model.state_dict().items()})


def test_what_a_snapshot_holds(tmp_path: Path) -> None:
    """All dtypes, odd shapes, views; its file is that of the safetensors library."""
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "b": base.view(4, 6),
        "a.view": base[3:9:2],
        "a.scalar": torch.tensor(3, dtype=torch.int64),
        "z": torch.zeros(0, 3),
        "t": torch.tensor([True, False]),
        "h": torch.randn(3, 5).to(torch.float8_e4m3fn),
        "same": base.view(4, 6),
    }
    assert tensors_of(tensors).keys() == tensors.keys() - {"same"}
    snapshot = Snapshot()
    for _ in range(2):
        snapshot.take(tensors_of(tensors), None)
        base += 1  # in place: not seen any more
        snapshot.write(tmp_path / "m.safetensors")
        found = load_file(tmp_path / "m.safetensors")
        wanted = {n: t.contiguous() for n, t in tensors_of(tensors).items()}
        wanted["b"], wanted["a.view"] = wanted["b"] - 1, wanted["a.view"] - 1
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            one, two = (x.reshape(-1).view(torch.uint8) for x in (found[name], tensor))
            assert torch.equal(one, two)
    nets.save_file(wanted, tmp_path / "theirs.safetensors", {"format": "pt"})
    theirs = (tmp_path / "theirs.safetensors").read_bytes()
    assert (tmp_path / "m.safetensors").read_bytes() == theirs


@pytest.mark.parametrize("page", ["README.md", "docs/versions.md"])
def test_the_blocks_of_the_documents_run(page: str, tmp_path: Path, monkeypatch) -> None:
    blocks = documents.python_blocks((documents.ROOT / page).read_text(), "sync")
    assert blocks
    monkeypatch.chdir(tmp_path)
    trainer, served = Trainer(), nets.Net()
    names = {
        "model": trainer.model,
        "step": 0,
        "served": served,
        "train": lambda _: trainer.train(),
        "reload_engine": lambda folder: load_file(tmp_path / folder / "model.safetensors"),
    }
    for block in blocks:
        exec(block, names)
    with Subscriber("policy.p2u") as subscriber:
        subscriber.apply(served)
    assert equal(served, trainer.state())
