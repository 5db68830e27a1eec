"""vLLM itself, on a CPU: after each update it answers as one that loaded the exact directory.

`make test-vllm` runs these in an environment of their own, which has vLLM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import vllm_kit as kit

os.environ.update(kit.ENVIRONMENT)

import torch
from vllm.distributed.weight_transfer import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import WeightSource

from p2u.adapters.sync.publisher import Publisher
from p2u.adapters.vllm.plugin import register
from p2u.adapters.vllm.trainer import TrainerInfo

#: Engines take long to start, on busy machines several minutes.
pytestmark = pytest.mark.timeout(900)

EXTENSION = "p2u.adapters.vllm.worker.WorkerExtension"


class Source(WeightSource):
    """The trainer's tensors."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def metadata(self) -> list[Any]:
        raise AssertionError("the tensors say it")

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.tensors.items()


class Client:
    """vLLM's client protocol, and what ours has besides, for an engine of this process."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.calls: list[str] = []

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        self.llm.init_weight_transfer_engine({"init_info": info})

    def start_weight_update(self) -> None:
        self.llm.start_weight_update()

    def update_weights(self, info: dict[str, Any]) -> None:
        self.llm.update_weights({"update_info": info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.llm.finish_weight_update(weight_version)

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        found: list[Any] = self.llm.collective_rpc(method, args=args)
        return found

    def reset_prefix_cache(self) -> None:
        assert self.llm.reset_prefix_cache()


@dataclass
class Run:
    """An engine, its trainer, and what was answered with which directory."""

    folder: Path
    llm: Any
    trainer: Any
    source: Source
    said: list[Any] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)

    def step(self, tensors: dict[str, torch.Tensor]) -> None:
        """One sync of other weights."""
        number = len(self.models)
        self.source.tensors = tensors
        self.trainer.send_weights(number)
        assert self.trainer.client.collective_rpc("p2u_version") == [f"step{number}"]
        self.note(tensors)

    def note(self, tensors: dict[str, torch.Tensor]) -> None:
        folder = self.folder / f"model{len(self.models)}"
        self.models.append(kit.save(self.folder / "model", tensors, folder))
        self.said.append(kit.answers(self.llm))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("vllm")
    tensors = kit.make_model(folder / "model")
    llm = kit.engine(
        folder / "model", weight_transfer_config={"backend": "p2u"}, worker_extension_cls=EXTENSION
    )
    source = Source(tensors)
    info = TrainerInfo(str(folder / "policy.p2u"))
    trainer = WeightTransferTrainerFactory.trainer_init(info, client=Client(llm), source=source)
    found = Run(folder, llm, trainer, source)
    found.note(tensors)
    yield found
    trainer.shutdown()
    kit.end(llm)


def test_the_plugin_is_known_by_itself_and_can_be_loaded_again(run: Run) -> None:
    register()
    assert "p2u" in WeightTransferEngineFactory._registry


def test_each_update_gives_what_a_fresh_engine_gives(run: Run) -> None:
    for seed in (1, 2, 3):
        run.step(kit.train(run.source.tensors, seed))
    # One tensor of three that vLLM fuses: the others may not be left uninitialised.
    name = "model.layers.0.self_attn.q_proj.weight"
    new = kit.train({name: run.source.tensors[name]}, 4)
    run.step(run.source.tensors | new)
    run.step(kit.train(run.source.tensors, 5))
    assert run.said == kit.fresh_answers(*run.models)
    assert all(one != other for one, other in zip(run.said, run.said[1:], strict=False))


def test_a_failing_load_leaves_the_weights_before(run: Run, monkeypatch) -> None:
    """It fails in the middle of the tensors, with some of them loaded."""
    before, tensors = run.said[-1], run.source.tensors
    (model,) = run.llm.apply_model(lambda model: model)
    load, left = model.load_weights, [1]

    def fails_once(weights: Any) -> Any:
        if not left:
            return load(weights)
        left.clear()
        some = [pair for pair, _ in zip(weights, range(9), strict=False)]
        load(some)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(model, "load_weights", fails_once)
    version = f"step{len(run.models) - 1}"
    run.source.tensors = kit.train(tensors, 99)
    with pytest.raises(Exception, match=f"on purpose.*the engine has {version} again"):
        run.trainer.send_weights(50)
    run.llm.reset_prefix_cache()
    assert kit.answers(run.llm) == before
    assert run.trainer.client.collective_rpc("p2u_version") == [version]


def test_versions_that_cannot_be_used_touch_nothing(run: Run) -> None:
    before, tensors = kit.answers(run.llm), run.source.tensors
    client = run.trainer.client
    client.start_weight_update()
    with pytest.raises(Exception, match="has no version 'step77'"):
        client.update_weights({"version": "step77", "timeout": 0.1})
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken["model.norm.weight"][3] = float("nan")
    run.source.tensors = broken
    with pytest.raises(Exception, match="has NaN among its weights"):
        run.trainer.send_weights(60)
    run.llm.reset_prefix_cache()
    assert kit.answers(run.llm) == before
    # The next version is used, whatever came between.
    new = kit.train(tensors, 6)
    run.source.tensors = new
    assert run.trainer.send_weights(61).version == "step61"
    folder = kit.save(run.folder / "model", new, run.folder / "model61")
    assert [kit.answers(run.llm)] == kit.fresh_answers(folder)


def always_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers compute with a copy of their weight, as on CPUs for which vLLM packs it."""
    from vllm.model_executor.layers import utils

    dispatch = utils.dispatch_cpu_unquantized_gemm

    def packing(layer: torch.nn.Module, remove_weight: bool) -> None:
        copy = layer.weight.detach().clone()
        dispatch(layer, remove_weight)
        inner = layer.cpu_linear
        layer.cpu_linear = lambda x, _, bias: inner(x, copy, bias)

    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", packing)


def test_a_cold_start_from_a_package_and_a_tied_head(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has no weights; the head's packed copy is renewed."""
    always_packs(monkeypatch)
    run.trainer.shutdown()
    kit.end(run.llm)
    tensors = kit.make_model(tmp_path / "model", tied=True)
    package = tmp_path / "policy.p2u"
    with Publisher(package, when_busy="wait") as publisher:
        publisher.publish(tensors, 1)
        publisher.flush()
        bare = kit.save(tmp_path / "model", {}, tmp_path / "bare")
        (bare / "model.safetensors").unlink()
        llm = kit.engine(
            bare, load_format="p2u", model_loader_extra_config={"source": str(package)},
            weight_transfer_config={"backend": "p2u"}, worker_extension_cls=EXTENSION,
        )  # fmt: skip
        said, models = [kit.answers(llm)], [tmp_path / "model"]
        client = Client(llm)
        client.init_weight_transfer_engine({"source": str(package)})
        for step in (2, 3):
            tensors = kit.train(tensors, step)
            models.append(kit.save(tmp_path / "model", tensors, tmp_path / f"model{step}"))
            publisher.publish(tensors, step)
            publisher.flush()
            client.start_weight_update()
            client.update_weights({"version": f"step{step}"})
            client.finish_weight_update()
            client.reset_prefix_cache()
            said.append(kit.answers(llm))
    assert said == kit.fresh_answers(*models)
    kit.end(llm)
