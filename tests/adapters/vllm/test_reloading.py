"""Packed copies of tied weights, without vLLM."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from p2u.adapters.vllm.reloading import pack_tied  # noqa: E402


class Packing:
    """Packs as vLLM's methods do on a CPU: the layer computes with a copy."""

    def __init__(self) -> None:
        self.packed: list[torch.nn.Module] = []

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        self.packed.append(layer)
        copy = layer.weight.detach().clone()
        layer.cpu_linear = lambda x: x @ copy.T


def test_only_tied_heads_that_are_packed_are_packed_again() -> None:
    method = Packing()
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(8, 4), "own": torch.nn.Linear(4, 8, bias=False)}
    )
    model["head"] = torch.nn.Linear(4, 8, bias=False)
    model["head"].weight = model["embed"].weight
    for name in ("head", "own"):
        model[name].quant_method = method
        method.process_weights_after_loading(model[name])
    with torch.no_grad():
        model["embed"].weight.fill_(2.0)
    assert not torch.equal(model["head"].cpu_linear(torch.ones(1, 4)), torch.full((1, 8), 8.0))

    method.packed.clear()
    pack_tied(model)
    assert method.packed == [model["head"]]
    assert torch.equal(model["head"].cpu_linear(torch.ones(1, 4)), torch.full((1, 8), 8.0))
