"""`p2u.torch.calibrate`: the moments are those of the layers' inputs, whoever shares them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import p2u
from p2u.errors import DiskError, UsageError
from p2u.packing.rounding.calibration import Calibration, Factor, make_factor

torch = pytest.importorskip("torch")
nn = torch.nn


def factors(path: Path) -> dict[str, Factor]:
    """Each tensor's factor, under all its names."""
    file = Calibration(str(path))
    return {name: file.factor(e.input) for e in file.entries for name in e.names}


def expected(rows: Any, damping: float = 0.01) -> Factor:
    """The factor of inputs written down by hand, ``(groups, n, columns)``."""
    rows = np.asarray(rows, np.float64)
    return make_factor(rows.swapaxes(1, 2) @ rows, damping)


def same(a: Factor, b: Factor) -> bool:
    """Equal but for what float32 sums leave open: mantissas of 8 bits off by one."""
    steps = np.abs(a.mantissa.astype(int) - b.mantissa)
    return bool(
        np.array_equal(a.order, b.order)
        and np.array_equal(a.exponent, b.exponent)
        and (steps.size == 0 or steps.max() <= 1)
    )


def batches(*shape: int, count: int = 3) -> list[Any]:
    """Whole numbers, small enough that float32 adds up their products exactly."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(-9, 10, shape, generator=generator).float() for _ in range(count)]


def test_a_linear_layer(tmp_path: Path) -> None:
    given = batches(20, 7)
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    model.train()
    report = p2u.torch.calibrate(model, given, tmp_path / "file")
    found = factors(tmp_path / "file")
    x = torch.cat(given)
    with torch.no_grad():
        hidden = torch.relu(model[0](x))
    assert same(found["0.weight"], expected(x[None]))
    assert same(found["2.weight"], expected(hidden[None]))
    assert not same(found["0.weight"], expected(x[None, :20]))
    assert report.tensors == ("0.weight", "2.weight")
    assert report.bytes == (tmp_path / "file").stat().st_size
    assert model.training
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"groups": 2, "padding": (2, 0), "stride": (1, 3)},
        {"groups": 4, "padding_mode": "reflect", "padding": 1},
        {"padding_mode": "circular", "padding": 2},
    ],
)
def test_a_convolution(tmp_path: Path, options: dict[str, Any]) -> None:
    given = batches(3, 4, 9, 8)
    layer = nn.Conv2d(4, 8, (3, 2), **options)
    p2u.torch.calibrate(nn.Sequential(layer), given, tmp_path / "file", damping=0.1)
    # What each column is, the convolution itself says: a kernel of a single one reads it.
    groups, columns = layer.groups, math.prod(layer.weight.shape[1:])
    rows = []
    for column in range(columns):
        probe = nn.Conv2d(4, groups, (3, 2), bias=False, **options)
        with torch.no_grad():
            probe.weight.zero_().view(groups, columns)[:, column] = 1
            rows.append(torch.stack([probe(x) for x in given]).movedim(2, 0).flatten(1))
    assert same(factors(tmp_path / "file")["0.weight"], expected(torch.stack(rows, -1), 0.1))


def test_convolutions_of_one_and_three_dimensions(tmp_path: Path) -> None:
    for layer, shape in ((nn.Conv1d(3, 4, 3), (2, 3, 8)), (nn.Conv3d(3, 4, 1), (2, 3, 2, 2, 2))):
        given = batches(*shape)
        p2u.torch.calibrate(nn.Sequential(layer), given, tmp_path / "file")
        x = torch.cat(given)
        if layer.kernel_size == (1, 1, 1):
            rows = x.movedim(1, -1).reshape(1, -1, 3)
        else:
            rows = x.unfold(2, 3, 1).transpose(1, 2).reshape(1, -1, 9)
        assert same(factors(tmp_path / "file")["0.weight"], expected(rows))


class Attention(nn.Module):
    """Three layers with one input, one that changes it in place, tied and unused ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.late = nn.Linear(6, 6)
        self.twin = nn.Linear(6, 6)
        self.twin.weight = self.late.weight
        self.unused = nn.Linear(6, 2)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any, attention_mask: Any = None) -> Any:
        x = self.embed(ids)
        y = self.q(x) + self.k(x)
        y = self.v(input=y * 0 + x) + y
        x *= 2
        return self.head(self.twin(self.late(x)) + y)


def test_who_shares_an_input(tmp_path: Path) -> None:
    model = Attention()
    ids = torch.arange(44).view(4, 11) % 11
    report = p2u.torch.calibrate(model, [{"ids": ids}, {"ids": ids.flip(0)}], tmp_path / "file")
    entries = {name: e for e in Calibration(str(tmp_path / "file")).entries for name in e.names}
    assert entries["q.weight"].input == entries["k.weight"].input
    assert entries["v.weight"].input != entries["q.weight"].input
    # Changed in place: another input, though the same object.
    assert entries["late.weight"].input not in (
        entries["q.weight"].input,
        entries["v.weight"].input,
    )
    assert entries["late.weight"] is entries["twin.weight"]
    assert report.inputs == 3
    assert set(report.skipped) == {"unused.weight", "embed.weight"}
    found = factors(tmp_path / "file")
    with torch.no_grad():
        x = model.embed(ids).reshape(-1, 6)
        both = torch.cat([2 * x, model.late(2 * x)])
    assert same(found["q.weight"], expected(x[None]))
    assert same(found["v.weight"], expected(x[None]))
    assert same(found["twin.weight"], expected(both[None]))


def test_padding_is_left_out(tmp_path: Path) -> None:
    model = Attention()
    ids = torch.arange(22).view(2, 11) % 11
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, 6:] = 0
    p2u.torch.calibrate(model, [{"ids": ids, "attention_mask": mask}], tmp_path / "file")
    x = model.embed(ids[mask > 0]).detach()
    assert same(factors(tmp_path / "file")["q.weight"], expected(x[None]))

    class Outer(nn.Module):
        """Gets the mask under a name of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Any, present: Any) -> Any:
            return self.inner(ids, attention_mask=present)

    p2u.torch.calibrate(Outer(), [(ids, mask)], tmp_path / "outer")
    assert same(factors(tmp_path / "outer")["inner.q.weight"], expected(x[None]))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_little_memory_means_more_passes(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(5)])
    given = batches(30, 16)
    told: list[tuple[int, int]] = []
    one = p2u.torch.calibrate(model, iter(given), tmp_path / "one")
    many = p2u.torch.calibrate(
        model, given, tmp_path / "many", memory=2 * 4 * 16**2, progress=lambda *n: told.append(n)
    )
    assert (one.passes, many.passes) == (2, 4)
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


@pytest.mark.slow
def test_gpt2_layers_are_transposed(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=32,
        n_layer=1,
        n_head=2,
        vocab_size=80,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(0, 80, (6, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Inputs that hang together.
        model.transformer.wte.weight.copy_(torch.randn(80, 5) @ torch.randn(5, 32))
        logits = model(ids).logits
    report = p2u.torch.calibrate(model, [{"input_ids": ids}], tmp_path / "file")
    axes = {e.names[0]: e.axis for e in Calibration(str(tmp_path / "file")).entries}
    assert axes["transformer.h.0.attn.c_attn.weight"] == 0
    assert "transformer.wte.weight" in report.skipped  # tied to the head
    model.save_pretrained(tmp_path / "model")
    errors = []
    for name, extra in (("plain", {}), ("made", {"calibration": tmp_path / "file", "thrift": 0})):
        p2u.pack(tmp_path / "model", tmp_path / name, bits=3, **extra)
        p2u.pull(tmp_path / name, tmp_path / f"{name}-base", until="base")
        base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / f"{name}-base")
        # Only the layers: the embeddings are the same in both.
        base.transformer.wte.load_state_dict(model.transformer.wte.state_dict())
        base.transformer.wpe.load_state_dict(model.transformer.wpe.state_dict())
        with torch.no_grad():
            errors.append(float(((base(ids).logits - logits) ** 2).mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("model", "given", "options", "expected"),
    [
        (nn.Linear(3, 3), [], {}, "no batches"),
        (nn.ReLU(), [torch.ones(2, 3)], {}, "no linear or convolution layer"),
        (nn.Linear(3, 3), [torch.ones(2, 3)], {"damping": 0}, "damping"),
        (nn.Linear(3, 3), [torch.full((2, 3), math.nan)], {}, "not finite"),
    ],
)
def test_errors(tmp_path: Path, model: Any, given: Any, options: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        p2u.torch.calibrate(model, given, tmp_path / "file", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_model_leaves_it_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3)).train()
    with pytest.raises(RuntimeError):
        p2u.torch.calibrate(model, [torch.ones(2, 4)], tmp_path / "file")
    assert model.training
    assert not model[0]._forward_pre_hooks
    with pytest.raises(DiskError):
        p2u.torch.calibrate(model, [torch.ones(2, 3)], tmp_path / "nowhere" / "file")
