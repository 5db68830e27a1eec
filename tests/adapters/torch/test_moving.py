"""A live model whose tensors the program casts, moves, shares, replaces or writes to."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
from store_kit import GatedStore
from waiting import until

torch = pytest.importorskip("torch")

from nets import Net, Packed, gated, nn, requests, same  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch.nn.utils import parametrize, prune  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import UnsupportedError, UsageError  # noqa: E402
from p2u.stores.local import LocalStore  # noqa: E402


def all_open(store: GatedStore) -> None:
    store.open("8bit")
    store.open("exact")


def share(tensor):
    return tensor.share_memory_()


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.half(),
        lambda model: model.to(torch.float64),
        lambda model: model.bfloat16().float(),
        lambda model: model.share_memory(),
        lambda model: model.to_empty(device="cpu"),
        lambda model: nn.Module._apply(model, lambda t: t.clone()),
        lambda model: model.up.double(),  # only a part of it
        lambda model: model.to(memory_format=torch.channels_last),
    ],
)
@pytest.mark.parametrize("options", [{}, {"staging": "chunks"}, {"mode": "eager"}])
def test_the_next_state_reaches_the_tensors_that_the_model_has(net: Packed, move, options) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net, **options).eval()
    move(model)
    places = [p.data_ptr() for p in model.parameters()]
    all_open(store)
    model.p2u.wait(timeout=20)
    want = net.plain(Net, "exact").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, want[name].to(value.dtype)), name
    assert [p.data_ptr() for p in model.parameters()] == places
    assert model.head.weight is model.embed.weight


def test_tensors_made_in_inference_mode_and_by_assignment(net: Packed) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    with torch.inference_mode():
        model.double()
    model.down.weight = nn.Parameter(torch.zeros_like(model.down.weight))
    model.up.bias.data = torch.zeros(256)
    all_open(store)
    model.p2u.wait(timeout=20)
    exact = net.tensors("exact")
    for name, value in model.state_dict().items():
        if name in exact:
            assert torch.equal(value, exact[name].to(value.dtype)), name


def test_a_model_is_not_refined_while_it_is_cast(net: Packed) -> None:
    """Else tensors cast before the commit would be of one state, the others of the next."""
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    seen = []

    def cast(tensor):
        if not seen:
            store.open("8bit")
            until(lambda: model.p2u._parts.pins.awaited)
        seen.append(model.p2u.state)
        return tensor.double() if tensor.is_floating_point() else tensor

    model._apply(cast)
    assert set(seen) == {"base"}
    store.open("exact")
    model.p2u.wait(timeout=20)
    exact = net.tensors("exact")
    assert all(
        torch.equal(value, exact[name].to(value.dtype))
        for name, value in model.state_dict().items()
        if name in exact
    )


def test_pruned_and_parametrised_tensors_are_refined(net: Packed) -> None:
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

        def right_inverse(self, x):
            return x

    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    prune.identity(model.up, "weight")
    parametrize.register_parametrization(model.down, "weight", Twice())
    all_open(store)
    model.p2u.wait(timeout=20)
    exact = net.tensors("exact")
    assert torch.equal(model.up.weight_orig, exact["up.weight"])
    assert torch.equal(model.down.parametrizations.weight.original, exact["down.weight"])


class Two(nn.Module):
    """Two layers of one shape, which a file has apart from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)


@pytest.mark.parametrize("staging", ["copy", "chunks"])
def test_layers_that_are_tied_later_share_the_tensor_that_they_keep(tmp_path, staging: str) -> None:
    """The values of the other one are written nowhere, least of all into the shared memory."""
    weights = {f"{name}.weight": torch.randn(64, 64) for name in "ab"}
    (tmp_path / "m").mkdir()
    save_file(weights, tmp_path / "m" / "model.safetensors")
    p2u.pack(tmp_path / "m", tmp_path / "p")
    store = GatedStore(LocalStore(tmp_path / "p"), "base")
    model = p2u.torch.load(store, Two, staging=staging)
    model.b.weight = model.a.weight
    all_open(store)
    model.p2u.wait(timeout=20)
    assert model.b.weight is model.a.weight
    assert torch.equal(model.a.weight, weights["a.weight"])


def _shrink(model: nn.Module) -> None:
    model.down.weight = nn.Parameter(model.down.weight[:8].clone())


def _transpose(model: nn.Module) -> None:
    weight = model.down.weight.detach()
    model.down.weight = nn.Parameter(weight.as_strided(weight.shape, (1, weight.shape[0])))


def _reparametrise(model: nn.Module) -> None:
    weight = model.down.weight.detach().clone()
    del model.down.weight
    model.down.register_parameter("weight_v", nn.Parameter(weight))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_shrink, "another shape"),
        (_reparametrise, "no such parameter"),
        (_transpose, "in another way"),
        (lambda model: model.down.to("meta"), "without values"),
    ],
)
def test_a_structure_that_no_state_fits_keeps_the_model_at_its_state(
    net: Packed, change, why: str
) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    change(model)
    all_open(store)
    with pytest.raises(UnsupportedError, match=why) as caught:
        model.p2u.wait(timeout=20)
    assert caught.value.tensor.startswith("down.") and "resume" in str(caught.value)
    assert model.p2u.state == "base" and model.p2u.error is caught.value
    with model.p2u.pinned() as state:
        assert state == "base"
    if why == "another shape":
        model.down.weight = nn.Parameter(torch.empty(64, 256))
        model.p2u.resume()
        model.p2u.wait(timeout=20)
        assert torch.equal(model.down.weight, net.tensors("exact")["down.weight"])


def test_a_module_that_left_the_model_is_named(net: Packed, caplog) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    model.down = nn.Identity()
    all_open(store)
    model.p2u.wait(timeout=20)
    assert "down.weight left the model" in caplog.text
    assert torch.equal(model.up.weight, net.tensors("exact")["up.weight"])


def _optimise(model: nn.Module) -> None:
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model(requests(1)[0]).sum().backward()
    optimiser.step()


def _normalise(model: nn.Module) -> None:
    model.train()
    with torch.no_grad():
        model(requests(1)[0])


@pytest.mark.parametrize("staging", ["copy", "chunks"])
@pytest.mark.parametrize(
    "write",
    [
        lambda model: model.load_state_dict(Net().state_dict()),
        lambda model: nn.init.zeros_(model.up.weight),
        _optimise,
        _normalise,
    ],
)
def test_writing_while_it_is_refined_is_named(net: Packed, write, staging: str) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net, staging=staging).eval()
    write(model)
    all_open(store)
    with pytest.raises(UsageError, match="the program has written") as caught:
        model.p2u.wait(timeout=20)
    assert caught.value.tensor and "wait" in str(caught.value)


def test_writing_that_torch_does_not_count_is_named_too(net: Packed) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net, staging="copy").eval()
    model.up.weight.data.zero_()
    all_open(store)
    with pytest.raises(UsageError, match="were written to"):
        model.p2u.wait(timeout=20)


def plain_copies(model: nn.Module) -> dict[str, nn.Module]:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return {
        "copy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "save": torch.load(file, weights_only=False),
        "inside": copy.deepcopy(nn.Sequential(model))[0],
        "again": pickle.loads(pickle.dumps(copy.deepcopy(model))),
    }


def test_copies_and_pickles_are_plain_modules_at_one_state(net: Packed) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    seen = []
    model.register_forward_hook(Noted(seen))
    copies = {"base": plain_copies(model)}
    all_open(store)
    model.p2u.wait(timeout=20)
    copies["exact"] = plain_copies(model)
    for label, found in copies.items():
        for made in found.values():
            assert type(made) is Net and same(made, net.plain(Net, label))
            assert not hasattr(made, "p2u") and len(made._forward_hooks) == 1
            assert made.head.weight is made.embed.weight
            made.half().eval()(requests(1)[0])
            with pytest.raises(UsageError):
                p2u.torch.replica(made)
    assert same(model, net.plain(Net, "exact"))
    assert p2u.torch.replica(model) is model.p2u


class Noted:
    """A hook of the user's."""

    def __init__(self, seen: list) -> None:
        self.seen = seen

    def __call__(self, module, args, output) -> None:
        self.seen.append(1)


def test_a_replica_itself_is_not_pickled(net: Packed) -> None:
    model = p2u.torch.load(net.package, Net)
    with pytest.raises(UsageError, match="process"):
        pickle.dumps(model.p2u)


def _answer(model: nn.Module, inputs: torch.Tensor, queue) -> None:
    with torch.no_grad():
        queue.put(model(inputs).tolist())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_model_that_is_being_refined_is_given_to_a_new_process(net: Packed, method: str) -> None:
    """The memory that the process opens is there for as long as it takes."""
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    inputs = requests(1)[0]
    context = torch.multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_answer, args=(model, inputs, queue))
    process.start()
    answer = queue.get(timeout=120)
    process.join(60)
    with torch.no_grad():
        assert torch.allclose(torch.tensor(answer), net.plain(Net, "base")(inputs))
    assert model.p2u.state == "base" and process.exitcode == 0
    model.p2u.cancel()
