"""Weights from a trainer to those who use them."""

from __future__ import annotations

import importlib
import json
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
from training import Trainer, equal, steps  # noqa: E402

import p2u  # noqa: E402
from p2u.adapters.sync.snapshot import Snapshot, tensors_of  # noqa: E402
from p2u.client.transfer.package_reader import PackageReader  # noqa: E402
from p2u.errors import UsageError  # noqa: E402

Publisher, Subscriber = p2u.sync.Publisher, p2u.sync.Subscriber
publisher_module = importlib.import_module("p2u.adapters.sync.publisher")


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

    monkeypatch.setattr(publisher_module, "publish", slow)
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
    with PackageReader(tmp_path / "pkg") as package:
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


def test_old_versions_go(tmp_path: Path) -> None:
    """A subscriber whose version has gone comes to the newest all the same."""
    trainer, model = Trainer(), nets.Net()
    with Publisher(tmp_path / "pkg", anchor_every=2, keep=2, grace=0.0) as publisher:
        subscriber = Subscriber(tmp_path / "pkg", directory=tmp_path / "got")
        for number in range(7):
            trainer.train()
            publisher.publish(trainer.model, trainer.step)
            publisher.flush(60)
            if number == 0:
                assert subscriber.apply(model) == 1
        manifest = (tmp_path / "pkg" / "p2u.json").stat().st_size
        assert 0 < manifest <= publisher.published[-1].manifest  # dropped afterwards
    # Older ones with a base have gone, too.
    assert steps(tmp_path / "pkg") in (["step6", "step7"], ["step5", "step6", "step7"])
    assert subscriber.apply(model) >= 1
    assert equal(model, trainer.state())
    subscriber.close()


class Adapted(torch.nn.Module):
    """A net whose first layer has an adapter of low rank; only that is trained, by AdamW."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(96, 256).requires_grad_(False)
        self.lora_A = torch.nn.Parameter(torch.randn(8, 96) * 0.1)
        self.lora_B = torch.nn.Parameter(torch.zeros(256, 8))
        self.optimizer = torch.optim.AdamW([self.lora_A, self.lora_B], lr=1e-3)

    def step(self, seed: int) -> None:
        x = torch.randn(16, 96, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        (self.layer(x) + x @ self.lora_A.T @ self.lora_B.T).square().mean().backward()
        self.optimizer.step()

    def adapter(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def moments(self) -> dict[str, torch.Tensor]:
        slots = self.optimizer.state_dict()["state"]
        return {f"{n}.{key}": value for n, slot in slots.items() for key, value in slot.items()}


@pytest.mark.slow
def test_training_goes_on_from_an_adapter_and_its_optimizer(tmp_path: Path) -> None:
    """What was published, weights and AdamW's moments, takes the same steps elsewhere, exactly."""
    trainer, other = Adapted(), Adapted()
    for net in (trainer, other):
        net.step(0)  # the optimizer has tensors from now on
    places = [(tmp_path / kind, kind) for kind in ("adapter", "moments")]
    publishers = [(Publisher(place), kind) for place, kind in places]
    subscribers = [(Subscriber(place), kind) for place, kind in places]
    for seed in range(1, 5):
        trainer.step(seed)
        other.step(seed + 100)  # something else
        for publisher, kind in publishers:
            publisher.publish(getattr(trainer, kind)(), seed)
            publisher.flush(60)
        for subscriber, kind in subscribers:
            assert subscriber.apply(getattr(other, kind)()) == 1
        assert equal(other.adapter(), trainer.adapter())
        assert equal(other.moments(), trainer.moments())
    for net in (trainer, other):
        for seed in range(5, 8):
            net.step(seed)
    assert equal(other.adapter(), trainer.adapter())
    for published, _ in publishers:
        published.close()
    p2u.pull(places[0][0], tmp_path / "got")
    assert load_file(tmp_path / "got" / "model.safetensors").keys() == {"lora_A", "lora_B"}


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
