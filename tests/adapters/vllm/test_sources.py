"""Sources of weights as vLLM 0.33 has them, without vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import p2u  # noqa: E402
from p2u.adapters.vllm.trainer import TrainerInfo, TrainerMethods  # noqa: E402
from p2u.errors import UsageError  # noqa: E402

CALLS = (
    *("init_weight_transfer_engine", "start_weight_update"),
    *("update_weights", "finish_weight_update"),
)


class Engine(TrainerMethods):
    """With the constructor that vLLM's part has."""

    def __init__(self, *, client: Any, source: Any, is_sender: bool, rank: int = 0) -> None:
        self.client, self.source, self.is_sender, self.rank = client, source, is_sender, rank


@dataclass
class Source:
    """Rank 0 owns the first ``owned`` of two parameters."""

    owned: int

    @cached_property
    def metadata(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("a", "b")]

    def owned_names(self, rank: int) -> list[str]:
        return [found.name for found in self.metadata][: self.owned]

    def iter_full(self) -> Iterator[tuple[str, Any]]:
        for number, name in enumerate(self.owned_names(0)):
            yield name, torch.full((3,), float(number))


class Client:
    """Notes vLLM's four calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


def test_a_client_with_four_methods_and_a_source_of_0_33(tmp_path: Path) -> None:
    client, package = Client(), str(tmp_path / "policy.p2u")
    engine = Engine.trainer_init(TrainerInfo(package), client=client, source=Source(2))
    engine.send_weights(3)
    engine.shutdown()
    assert client.calls[1:] == [
        ("start_weight_update",),
        ("update_weights", {"version": "step3"}),
        ("finish_weight_update", "step3"),
    ]
    found = {name: list(array) for name, array in p2u.load(package).items()}
    assert found == {"a": [0.0] * 3, "b": [1.0] * 3}


def test_a_part_of_the_model_is_refused(tmp_path: Path) -> None:
    info = TrainerInfo(str(tmp_path / "policy.p2u"))
    with pytest.raises(UsageError, match="does not own b"):
        Engine.trainer_init(info, client=Client(), source=Source(1))
    with pytest.raises(UsageError, match="WeightSource"):
        Engine.trainer_init(info, client=Client())
