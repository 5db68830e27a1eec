"""Weights from a trainer to those who use them, by way of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from training import Trainer, equal  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import BusyError, ConflictError  # noqa: E402

Publisher, Subscriber = p2u.sync.Publisher, p2u.sync.Subscriber


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.mark.parametrize("scheme", ["s3", "oci", "hf"])
def test_from_step_to_step(scheme: str, place: Callable[[str], str], caches: Path) -> None:
    url = place(scheme)
    trainer, other = Trainer(), nets.Net()
    with Publisher(url, keep=2, grace=0.0) as publisher:
        with pytest.raises(BusyError):
            Publisher(url)
        for step in range(3):
            trainer.train()
            publisher.publish(trainer.model, step)
            publisher.flush(60)
    with Subscriber(url) as subscriber:
        assert subscriber.apply(other)
        assert equal(other, trainer.state())
        trainer.train()
        with Publisher(url) as again:  # goes on with the next step
            again.publish(trainer.model)
        assert subscriber.apply(other) == 1
        assert (subscriber.step, subscriber.version) == (3, "step3")
        assert equal(other, trainer.state())
    assert [path.name for path in (caches / "p2u" / "sync").iterdir()]


def test_a_publisher_on_another_machine(place: Callable[[str], str], tmp_path: Path) -> None:
    """It has another folder to work in, so nothing but the store says that there are two."""
    url = place("s3")
    trainer = Trainer()
    with Publisher(url, work=tmp_path / "other") as other, Publisher(url) as publisher:
        publisher.publish(trainer.model, 1)
        publisher.flush(60)
        other.publish(trainer.model, 2)
        other.flush(60)
        trainer.train()
        publisher.publish(trainer.model, 3)
        with pytest.raises(ConflictError, match="step2"):
            publisher.flush(60)
    p2u.verify(url)
