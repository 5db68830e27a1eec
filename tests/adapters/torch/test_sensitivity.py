"""`p2u.torch.sensitivity` finds the tensors that matter, and `pack` gives them the bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import p2u
from p2u.errors import DiskError, UsageError

torch = pytest.importorskip("torch")


class Toy(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two paths to the output, of which one hardly counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matters = torch.nn.Linear(48, 32)
        self.hardly = torch.nn.Linear(48, 32)
        self.idle = torch.nn.Linear(48, 32)
        self.tied = self.matters
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.drop(self.matters(x)) + 0.01 * self.hardly(x)


class Words(Toy):
    """Gives no tensor."""

    def forward(self, x: Any) -> Any:
        return str(super().forward(x))


def inputs(count: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 48, generator=generator) for _ in range(count)]


def damage(name: str, model: Any, batches: list[Any], noise: float = 0.02) -> float:
    """What noise in one tensor does: the mean squared change of the output, measured."""
    weight = dict(model.named_parameters())[name]
    total = 0.0
    with torch.no_grad():
        clean = [model(x) for x in batches]
        kept = weight.clone()
        for _ in range(20):
            scale = noise * kept.square().mean(1, keepdim=True).sqrt()
            weight.copy_(kept + scale * torch.randn(kept.shape))
            total += sum(
                float((model(x) - y).square().sum()) for x, y in zip(batches, clean, strict=True)
            )
        weight.copy_(kept)
    return total / 20 / noise**2 / len(batches)


def test_the_numbers_are_the_damage_that_noise_does() -> None:
    model = Toy().eval()
    found = p2u.torch.sensitivity(model, inputs(), draws=16)["tensors"]
    for name in ("matters.weight", "hardly.weight"):
        assert found[name] == pytest.approx(damage(name, model, inputs()), rel=0.15)
    assert found["hardly.weight"] < 1e-3 * found["matters.weight"]
    assert found["idle.weight"] == 0
    assert found["tied.weight"] == found["matters.weight"]
    assert not any(name.endswith("bias") for name in found)


def test_probabilities_and_losses_agree_on_what_matters() -> None:
    model = Toy()
    labels = torch.zeros(64, dtype=torch.long)

    def loss(out: Any, batch: Any) -> Any:
        return torch.nn.functional.cross_entropy(out, labels, reduction="none")

    for found in (
        p2u.torch.sensitivity(model, inputs(), output="logits"),
        p2u.torch.sensitivity(model, inputs(), loss),
    ):
        tensors = found["tensors"]
        assert 0 < tensors["hardly.weight"] < 1e-3 * tensors["matters.weight"]


def test_the_model_is_left_as_it_was() -> None:
    model = Toy().train()
    model.hardly.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = p2u.torch.sensitivity(model, inputs())
    assert first == p2u.torch.sensitivity(model, inputs())  # dropout is off, the seed is fixed
    assert model.training and model.drop.training
    assert not model.hardly.weight.requires_grad and model.matters.weight.requires_grad
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_padding_does_not_count() -> None:
    class Tokens(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words = torch.nn.Embedding(16, 32)
            self.padding = torch.nn.Embedding(16, 32)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            on = attention_mask[..., None]
            return (on * self.words(input_ids) + (1 - on) * self.padding(input_ids),)

    ids = torch.arange(16).view(2, 8)
    mask = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
    found = p2u.torch.sensitivity(Tokens(), [{"input_ids": ids, "attention_mask": mask}])
    assert found["tensors"]["words.weight"] > 0
    assert found["tensors"]["padding.weight"] == 0


def test_pack_uses_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = Toy()
    state = {n: p for n, p in model.state_dict().items() if not n.startswith("tied")}
    save_file(state, tmp_path / "model.safetensors")
    p2u.torch.sensitivity(model, inputs(), path=tmp_path / "sens.json")
    tree = json.loads((tmp_path / "sens.json").read_text())
    assert set(tree) == {"format", "version", "tensors"}
    report = p2u.pack(
        tmp_path / "model.safetensors", tmp_path / "p", bits=3, sensitivity=tmp_path / "sens.json"
    )
    offsets = report.offsets
    assert offsets["matters.weight"] < offsets["hardly.weight"] < offsets["idle.weight"]


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    model = Toy()
    with pytest.raises(UsageError, match="batches"):
        p2u.torch.sensitivity(model, [])
    with pytest.raises(UsageError, match="parameters with levels"):
        p2u.torch.sensitivity(torch.nn.BatchNorm1d(8), [torch.zeros(2, 8)])
    with pytest.raises(UsageError, match="does not depend on any"):
        p2u.torch.sensitivity(model, [torch.zeros(2, 48)])
    with pytest.raises(UsageError, match="expected a tensor"):
        p2u.torch.sensitivity(Words(), inputs())
    with pytest.raises(UsageError, match="draws"):
        p2u.torch.sensitivity(model, inputs(), draws=0)
    with pytest.raises(DiskError, match="no-such"):
        p2u.torch.sensitivity(model, inputs(), path=tmp_path / "no-such" / "x.json")
