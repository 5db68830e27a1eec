"""Modules and files that do not fit by themselves: names, ties, prefixes, shards, buffers."""

from __future__ import annotations

import pytest
from kit import STATES

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from nets import Net, Packed, gated, nn, same, through_all_states  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import UnsupportedError, UsageError  # noqa: E402


def test_tied_weights_that_the_file_has_twice(tmp_path) -> None:
    """The last one counts, as in load_state_dict; recipes may give the two other steps."""
    state = nets.net_weights()
    state["head.weight"] = state["embed.weight"].clone()
    packed = nets.pack_tensors(tmp_path, {"model.safetensors": state})
    store = gated(packed)
    model = p2u.torch.load(store, Net)
    for label in STATES:
        store.open(label)
        with model.p2u.pinned(require=label, timeout=20):
            assert model.head.weight is model.embed.weight
            plain = Net()
            plain.load_state_dict(packed.tensors(label))
            assert same(model, plain)


def test_names_and_shapes_are_checked_as_torch_does(tmp_path) -> None:
    state = nets.net_weights()
    del state["up.bias"]
    state["extra.weight"] = torch.zeros(3, 3)
    packed = nets.pack_tensors(tmp_path, {"model.safetensors": state})
    with pytest.raises(RuntimeError) as said:
        p2u.torch.load(packed.package, Net)
    assert 'Missing key(s) in state_dict: "up.bias"' in str(said.value)
    assert 'Unexpected key(s) in state_dict: "extra.weight"' in str(said.value)
    # Torch's own initial value for the missing one.
    torch.manual_seed(5)
    model = p2u.torch.load(packed.package, Net, strict=False)
    assert model.up.bias.shape == (256,) and 0 < float(model.up.bias.detach().abs().max()) < 1
    with pytest.raises(UsageError, match=r"up\.bias"), torch.device("meta"):
        p2u.torch.load(packed.package, Net(), strict=False)

    with pytest.raises(UsageError, match="does not fit Sequential"):
        p2u.torch.load(packed.package, lambda: nn.Sequential(nn.Linear(3, 3)), strict=False)

    class Wide(Net):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(65, 256)

    with pytest.raises(RuntimeError, match=r"size mismatch for up\.weight"):
        p2u.torch.load(packed.package, Wide, strict=False)


@pytest.mark.parametrize("there", [True, False])
def test_prefixes(tmp_path, there: bool) -> None:
    """A file by a model with a head, or a file of the model within the one with a head."""

    class Head(nn.Module):
        base_model_prefix = "bert"

        def __init__(self) -> None:
            super().__init__()
            self.bert = Net()
            self.top = nn.Linear(300, 2)

    state = nets.net_weights()
    if there:
        state = {f"bert.{name}": value for name, value in state.items()}
        state["top.weight"] = torch.zeros(2, 300)
    packed = nets.pack_tensors(tmp_path, {"model.safetensors": state})
    model = p2u.torch.load(packed.package, Net if there else Head, strict=False)
    inner = model if there else model.bert
    model.p2u.wait(timeout=20)
    for name, value in nets.net_weights().items():
        assert torch.equal(inner.state_dict()[name], value)


def test_shards_and_several_models(tmp_path) -> None:
    state = nets.net_weights()
    first = {name: value for name, value in state.items() if name.startswith(("embed", "up"))}
    second = {name: value for name, value in state.items() if name not in first}
    shards = nets.pack_tensors(
        tmp_path / "a",
        {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second},
    )
    model = p2u.torch.load(shards.package, Net)
    model.p2u.wait(timeout=20)
    assert same(model.eval(), shards.plain(Net, "exact"))
    other = nets.net_weights(seed=8)
    both = nets.pack_tensors(
        tmp_path / "b", {"unet/model.safetensors": state, "vae/model.safetensors": other}
    )
    with pytest.raises(UsageError, match="weights="):
        p2u.torch.load(both.package, Net)
    with pytest.raises(UsageError, match="vae/model"):
        p2u.torch.load(both.package, Net, weights="text/*")
    for folder, expected in (("unet", state), ("vae", other)):
        model = p2u.torch.load(both.package, Net, weights=f"{folder}/*")
        model.p2u.wait(timeout=20)
        assert torch.equal(model.up.weight, expected["up.weight"])


def test_buffers_that_need_a_second_run(net: Packed) -> None:
    """Computed from random or empty tensors, or by a constructor that mixes devices."""
    runs = []

    class Odd(Net):
        def __init__(self) -> None:
            super().__init__()
            runs.append(1)
            self.register_buffer("mask", torch.empty(5).fill_(2), persistent=False)
            self.late = torch.empty(3).fill_(4)

    model = p2u.torch.load(net.package, Odd)
    assert len(runs) == 2
    assert model.mask.tolist() == [2] * 5
    assert model.late.tolist() == [4] * 3

    class Mixed(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.late = self.late * torch.ones(3)

    model = p2u.torch.load(net.package, Mixed)
    assert len(runs) == 5  # the first run was in vain
    assert model.late.tolist() == [4] * 3
    model.p2u.wait(timeout=20)
    assert torch.equal(model.freq, Net().freq)


def test_building_takes_no_memory_for_parameters() -> None:
    from p2u.adapters.torch.build import build

    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Linear(1 << 20, 1 << 20)
            self.e = nn.Parameter(torch.randn(1 << 20, 1 << 20))
            self.register_buffer("b", torch.arange(5))

    model = build(Huge)
    assert model.w.weight.is_meta and model.e.is_meta
    assert model.b.tolist() == [0, 1, 2, 3, 4]


def test_a_module_that_changes_what_it_loads(net: Packed) -> None:
    class Doubling(Net):
        def _load_from_state_dict(self, state, prefix, *args) -> None:
            state[f"{prefix}up.weight"] = state[f"{prefix}up.weight"] * 2
            super()._load_from_state_dict(state, prefix, *args)

    def factory() -> nn.Module:
        model = Net()
        model.register_load_state_dict_pre_hook(
            lambda module, state, prefix, *rest: state.update({"up.weight": state["up.weight"] * 2})
        )
        return model

    with pytest.raises(UnsupportedError, match=r"up\.weight"):
        p2u.torch.load(net.package, factory)


def test_a_module_instead_of_a_factory(net: Packed) -> None:
    store = gated(net)
    module = Net()
    model = p2u.torch.load(store, module)
    assert model is module and model.head.weight is model.embed.weight
    through_all_states(store, model, net, Net)


def test_a_module_on_the_meta_device_has_no_buffers(net: Packed) -> None:
    with torch.device("meta"):
        module = Net()
    # Not its `freq`: transformers, once imported, lets linspace be real on that device.
    with pytest.raises(UsageError, match="position"):
        p2u.torch.load(net.package, module)
