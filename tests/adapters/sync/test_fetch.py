"""Versions that a subscriber stages for an engine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import documents  # noqa: E402
import nets  # noqa: E402
from training import Trainer, equal  # noqa: E402

import p2u  # noqa: E402
from p2u.adapters.torch.tensors import view  # noqa: E402
from p2u.errors import UsageError  # noqa: E402

Publisher, Subscriber = p2u.sync.Publisher, p2u.sync.Subscriber


def publish(publisher, trainer: Trainer) -> dict[str, torch.Tensor]:
    """One more step; the tensors published, of the tied ones only the first."""
    trainer.train()
    publisher.publish(trainer.model, trainer.step)
    publisher.flush(60)
    return {name: value for name, value in trainer.state().items() if name != "head.weight"}


def test_an_engine_loads_what_was_staged_and_commits_it(tmp_path: Path) -> None:
    trainer = Trainer()
    with Publisher(tmp_path / "pkg") as publisher, Subscriber(tmp_path / "pkg") as subscriber:
        assert subscriber.latest() is None
        first, second = publish(publisher, trainer), publish(publisher, trainer)
        assert subscriber.latest() == "step2" and subscriber.version is None

        staged = subscriber.fetch("step1", timeout=30)
        assert equal({name: view(staged, tensor) for name, tensor in staged.select()}, first)
        staged.commit()
        assert (subscriber.version, subscriber.step) == ("step1", 1)

        staged = subscriber.fetch(timeout=30)
        assert subscriber.version == "step1"
        engine = first | {name: view(staged, t) for name, t in staged.select(have=_digest(staged))}
        assert equal(engine, second)
        staged.commit()
        assert subscriber.version == "step2" and subscriber.fetch() is None

        # The same subscriber brings a module there, too.
        other, third = nets.Net(), publish(publisher, trainer)
        assert subscriber.fetch("step3").version == "step3"
        assert subscriber.apply(other) == 1 and equal(other, third)


def _digest(staged) -> str:
    assert staged.source is not None
    return staged.source.digest


def test_a_version_can_be_waited_for_that_is_not_published_yet(tmp_path: Path) -> None:
    trainer = Trainer()
    with Publisher(tmp_path / "pkg") as publisher, Subscriber(tmp_path / "pkg") as subscriber:
        with pytest.raises(UsageError, match="has no version 'step1'"):
            subscriber.fetch("step1")
        with pytest.raises(UsageError, match="has no version 'step1'"):
            subscriber.fetch("step1", timeout=0.1)
        for version in ("step1", "step2"):
            timer = threading.Timer(0.2, publish, (publisher, trainer))
            timer.start()
            subscriber.fetch(version, timeout=30).commit()
            timer.join()
            assert subscriber.version == version


def test_a_directory_has_nothing_to_stage(tmp_path: Path) -> None:
    with (
        Subscriber(tmp_path / "pkg", directory=tmp_path / "model") as subscriber,
        pytest.raises(UsageError, match="stages nothing"),
    ):
        subscriber.fetch()


def test_the_block_of_the_document_runs(tmp_path: Path, monkeypatch) -> None:
    text = (documents.ROOT / "docs" / "rl.md").read_text()
    block = next(b for b in documents.python_blocks(text, "sync") if ".fetch(" in b)
    monkeypatch.chdir(tmp_path)
    trainer = Trainer()
    trainer.step = -1
    with Publisher("policy.p2u") as publisher:
        publish(publisher, trainer)
        wanted = publish(publisher, trainer)
    names: dict = {}
    exec(block, names)
    engine = {name: torch.from_numpy(array.copy()) for name, array in names["engine"].items()}
    assert equal(engine, wanted)
