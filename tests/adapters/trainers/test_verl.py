"""verl's checkpoint engine ``p2u``: trainer ranks here, rollout ranks in another process."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trainers import trainer

from p2u.errors import P2UError, UsageError

torch = pytest.importorskip("torch")
trainer("verl")
from verl_rollout import RANKS, new, rollout  # noqa: E402 - it imports verl


class Run:
    """What verl's manager does between a trainer and its rollout ranks."""

    def __init__(self, package: Path) -> None:
        torch.manual_seed(1)
        names = [f"model.layers.{n}.{kind}" for n in range(4) for kind in ("q", "k", "norm")]
        self.weights = {name: torch.randn(48, 64, dtype=torch.bfloat16) for name in names}
        self.actors = [new(package, is_master=rank == 0) for rank in range(RANKS)]
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process
        self._process = process(target=rollout, args=(theirs, package), daemon=True)
        self._process.start()

    def tell(self, method: str, arguments: Any = None) -> Any:
        self._pipe.send((method, arguments))
        return self.answer()

    def answer(self) -> Any:
        assert self._pipe.poll(60)
        return self._pipe.recv()

    def connect(self) -> None:
        metadata = [actor.prepare() for actor in self.actors]
        metadata += self.tell("prepare", [{}] * RANKS)
        ours, theirs = type(self.actors[0]).build_topology(RANKS, RANKS, metadata)
        for rank, actor in enumerate(self.actors):
            actor.init_process_group(**{key: values[rank] for key, values in ours.items()})
        each = [{key: values[rank] for key, values in theirs.items()} for rank in range(RANKS)]
        self.tell("init_process_group", each)

    def sync(self, step: int) -> tuple[list[dict[str, float]], list[list[str]]]:
        """Returns the trainer's metrics, and the names that each rollout rank was given."""
        self.connect()
        self._pipe.send(("receive", None))  # at the same time, as verl does

        async def send() -> list[dict[str, float]]:
            sent = [actor.send_weights(iter(self.weights.items()), step) for actor in self.actors]
            return list(await asyncio.gather(*sent))

        metrics = asyncio.run(send())
        return metrics, self.answer()

    def same(self) -> bool:
        """Whether every rollout rank has the trainer's bits."""
        ours = {name: tensor.view(torch.int16).numpy() for name, tensor in self.weights.items()}
        return all(
            found.keys() == ours.keys() and all((found[n] == ours[n]).all() for n in ours)
            for found in self.tell("loaded")
        )

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(20)
        for actor in self.actors:
            actor.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "policy.p2u")
    yield made
    made.close()


def test_every_rank_gets_the_trainers_bits_and_then_the_layers_that_change(run: Run) -> None:
    (first, second), given = run.sync(10)
    assert given == [list(run.weights)] * RANKS and run.same()
    assert first["p2u/bytes"] > 10_000 and second == {}
    run.weights["model.layers.2.k"][3, 5] += 1
    run.weights["model.layers.2.norm"][0, 0] = float("nan")
    (first, _), given = run.sync(20)
    assert given == [[f"model.layers.2.{kind}" for kind in ("q", "k", "norm")]] * RANKS
    assert run.same() and first["p2u/bytes"] < 1000


def test_a_step_that_is_repeated_or_changes_nothing(run: Run) -> None:
    run.sync(5)
    run.weights["model.layers.0.q"] += 1
    _, given = run.sync(5)  # from a checkpoint
    assert len(given[0]) == 3 and run.same()
    assert run.sync(6)[1] == [[], []] and run.same()


def test_a_failed_synchronisation_leaves_the_ranks_where_they_are(run: Run, tmp_path: Path) -> None:
    run.sync(1)
    run.weights["model.layers.0.q"] += 1
    package = tmp_path / "policy.p2u"
    shutil.move(package / "p2u.json", tmp_path / "kept")
    (package / "p2u.json").write_text("{}")
    with pytest.raises(P2UError):
        run.connect()
    shutil.move(tmp_path / "kept", package / "p2u.json")
    _, given = run.sync(2)
    assert len(given[0]) == 3 and run.same()


def test_a_version_that_does_not_come_is_named(tmp_path: Path) -> None:
    engine = new(tmp_path / "none.p2u", timeout=0.2)
    engine.init_process_group(before=None)

    async def receive() -> None:
        async for _ in engine.receive_weights():
            raise AssertionError

    with pytest.raises(TimeoutError, match=r"none\.p2u.*the trainer's log"):
        asyncio.run(receive())
    with pytest.raises(UsageError, match="engine_kwargs"):
        new("")
