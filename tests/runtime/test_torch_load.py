"""Every way of putting a package into a module: names, ties, buffers, dtypes, devices."""

from __future__ import annotations

import copy
import struct
import subprocess
import sys
import threading

import kit
import pytest
from kit import STATES

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from nets import Net, Packed, nn  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import P2UError, UnsupportedError, UsageError  # noqa: E402
from p2u.stores import LocalStore  # noqa: E402


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Packed:
    return nets.pack_tensors(
        tmp_path_factory.mktemp("net"), {"model.safetensors": nets.net_weights()}
    )


def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether all tensors are bitwise the same, those that no file has too."""
    mine, theirs = (
        {**dict(m.named_parameters(remove_duplicate=False)), **dict(m.named_buffers())}
        for m in (model, other)
    )
    assert mine.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in mine.items())


def gated(packed: Packed, *labels: str) -> nets.Gated:
    return nets.Gated(LocalStore(packed.package), "base", *labels)


def through_all_states(store: nets.Gated, model: nn.Module, packed: Packed, factory) -> None:
    """The same storage, and at each state the tensors of the pulled directory."""
    model.eval()
    addresses = [p.data_ptr() for p in model.parameters()]
    parameters = list(model.parameters())
    for label in STATES:
        store.open(label)
        with model.p2u.pinned(require=label, timeout=20) as state:
            assert state == label
            assert same(model, packed.plain(factory, label))
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("options", [{}, {"mode": "eager"}, {"staging": "chunks"}])
def test_views_ties_and_buffers(net: Packed, options) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net, **options)
    assert model.head.weight is model.embed.weight
    assert len(list(model.parameters())) == 7
    start = {id(view.obj) for view in model.p2u.files.values()}
    assert start
    memory = model.p2u.tensors
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == memory[name].ctypes.data
        assert parameter.requires_grad
    assert torch.equal(model.position, torch.arange(64).float())
    through_all_states(store, model, net, Net)


def test_a_module_instead_of_a_factory(net: Packed) -> None:
    store = gated(net)
    module = Net()
    model = p2u.torch.load(store, module)
    assert model is module and model.head.weight is model.embed.weight
    through_all_states(store, model, net, Net)


def test_a_module_on_the_meta_device_has_no_buffers(net: Packed) -> None:
    with torch.device("meta"):
        module = Net()
    with pytest.raises(UsageError, match="freq"):
        p2u.torch.load(net.package, module)


@pytest.mark.parametrize("state", STATES)
def test_without_background(net: Packed, state: str) -> None:
    model = p2u.torch.load(net.package, Net, state, background=False).eval()
    model.p2u.wait()
    assert model.p2u.state == state
    assert not model._forward_pre_hooks
    assert same(model, net.plain(Net, state))


def test_the_best_state_by_a_deadline(net: Packed) -> None:
    model = p2u.torch.load(net.package, Net, state="best", deadline=60)
    assert model.p2u.state == "exact"
    with pytest.raises(UsageError, match="belong together"):
        p2u.torch.load(net.package, Net, state="best")
    with pytest.raises(UsageError, match="belong together"):
        p2u.torch.load(net.package, Net, state="best", deadline=1, background=False)


@pytest.mark.parametrize(
    ("dtype", "staging"), [("float16", "direct"), (torch.float64, "direct"), ("float32", "copy")]
)
def test_dtypes(net: Packed, dtype, staging: str) -> None:
    def factory() -> nn.Module:
        model = Net()
        model.head.weight = model.embed.weight
        return model

    store = gated(net)
    model = p2u.torch.load(store, factory, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in model.parameters()} == {wanted}
    assert model.norm.num_batches_tracked.dtype == torch.int64
    assert model.head.weight is model.embed.weight
    addresses = [p.data_ptr() for p in model.parameters()]
    for label in STATES:
        store.open(label)
        with model.p2u.pinned(require=label, timeout=20):
            for name, value in net.tensors(label).items():
                expected = value.to(wanted) if value.is_floating_point() else value
                assert torch.equal(model.state_dict()[name], expected)
        if label != "base":
            assert model.p2u.staging == staging
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_a_cast_in_eager_mode_follows_too(net: Packed) -> None:
    model = p2u.torch.load(net.package, Net, dtype="bfloat16", mode="eager")
    model.p2u.wait(timeout=20)
    weight = net.tensors("exact")["up.weight"]
    assert torch.equal(model.up.weight, weight.bfloat16())


def test_wrong_dtypes_and_options(net: Packed) -> None:
    for dtype in ("float7", "int8", torch.int64):
        with pytest.raises(UsageError, match="dtype"):
            p2u.torch.load(net.package, Net, dtype=dtype)
    with pytest.raises(UsageError, match="mode"):
        p2u.torch.load(net.package, Net, mode="slow")
    with pytest.raises(UsageError, match="'2bit'"):
        p2u.torch.load(net.package, Net, "2bit")
    with pytest.raises(UsageError, match=r"nn\.Module"):
        p2u.torch.load(net.package, 7)
    with pytest.raises(UsageError, match="list"):
        p2u.torch.load(net.package, list)
    with pytest.raises(UsageError, match="not loaded"):
        p2u.torch.replica(Net())


def test_all_dtypes_and_misaligned_tensors(tmp_path) -> None:
    """A header whose length is odd puts every tensor at an odd place."""
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}
    data = {
        "F32": kit.floats(9000, "F32", 1),
        "BF16": kit.floats(9000, "BF16", 2),
        "F16": kit.floats(9000, "F16", 3),
        "I64": struct.pack("<9000q", *range(9000)),
    }
    float8 = ["float8_e4m3fn", "float8_e5m2"]

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, dtype in names.items():
                self.register_buffer(name, torch.empty(90, 100, dtype=dtype))
            for name in float8:
                self.register_buffer(name, torch.empty(4, dtype=getattr(torch, name)))
            self.register_buffer("none", torch.empty(0, 3))

    entries = [(name, name, (90, 100), raw) for name, raw in data.items()]
    entries += [
        (name, "F8_E4M3" if "4" in name[-5:-2] else "F8_E5M2", (4,), b"\x01\x22\x38\x44")
        for name in float8
    ]
    entries.append(("none", "F32", (0, 3), b""))
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.safetensors"
    kit.write_safetensors(path, entries)
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    odd = struct.pack("<Q", length + 1) + raw[8 : 8 + length] + b" " + raw[8 + length :]
    for content in (raw, odd):
        path.write_bytes(content)
        folder = tmp_path / f"at{len(content)}"
        folder.mkdir()
        packed = nets.pack_folder(tmp_path / "model", folder)
        store = gated(packed)
        model = p2u.torch.load(store, Many)
        misaligned = content is odd
        assert (model.F32.data_ptr() == model.p2u.tensors["F32"].ctypes.data) is not misaligned
        for label in STATES:
            store.open(label)
            with model.p2u.pinned(require=label, timeout=20):
                live = model.p2u.tensors
                state = model.state_dict()
                assert len(state) == 7
                for name, value in state.items():
                    assert value.reshape(-1).view(torch.uint8).numpy().tobytes() == (
                        live[name].tobytes()
                    )
                    assert value.shape == live[name].shape


def test_a_dtype_that_torch_lacks(net: Packed, tmp_path) -> None:
    kit.write_safetensors(tmp_path / "m.safetensors", [("w", "F4", (4,), b"ab")])
    p2u.pack(tmp_path / "m.safetensors", tmp_path / "pkg")

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.empty(2))

    with pytest.raises(UnsupportedError, match="F4"):
        p2u.torch.load(tmp_path / "pkg", One)


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
    from p2u.runtime.torch.build import build

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


def test_failures_leave_no_threads(net: Packed, tmp_path) -> None:
    before = set(threading.enumerate())

    def broken() -> nn.Module:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        p2u.torch.load(net.package, broken)
    with pytest.raises(P2UError):
        p2u.torch.load(tmp_path / "nothing", Net)
    with pytest.raises(TimeoutError):
        p2u.torch.load(net.package, Net, limit_rate=1000.0, timeout=0.1)
    assert not set(threading.enumerate()) - before


def test_a_deep_copy_is_a_model_of_its_own(net: Packed) -> None:
    store = gated(net)

    class Generator(Net):
        def generate(self, ids):
            return self(ids)

    model = p2u.torch.load(store, Generator).eval()
    twin = copy.deepcopy(model)
    store.open("8bit", "exact")
    model.p2u.wait(timeout=20)
    (x,) = nets.requests(1)
    base, exact = (net.plain(Net, label) for label in ("base", "exact"))
    with torch.no_grad():
        assert torch.equal(twin(x), base(x))
        assert torch.equal(twin.generate(x), base(x))
        assert torch.equal(model.generate(x), exact(x))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled(net: Packed, fullgraph: bool) -> None:
    """The compiled model keeps its addresses and sees the new state, without compiling again."""
    import torch._dynamo

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    assert p2u.torch.replica(compiled) is model.p2u
    addresses = [p.data_ptr() for p in model.parameters()]
    (x,) = nets.requests(1)
    with torch.no_grad():
        for label in STATES:
            store.open(label)
            with model.p2u.pinned(require=label, timeout=20):
                assert torch.equal(compiled(x), net.plain(Net, label)(x))
    assert len(graphs) == 1
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert not model.p2u._course.gate._pins


def test_compiled_in_place(net: Packed) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    store = gated(net)
    model = p2u.torch.load(store, Net).eval()
    model.compile(backend="eager")
    (x,) = nets.requests(1)
    with torch.no_grad():
        for label in STATES:
            store.open(label)
            model.p2u.wait(label, timeout=20)
            assert torch.equal(model(x), net.plain(Net, label)(x))
            assert not model.p2u._course.gate._pins


def test_dynamo_finds_out_by_itself(net: Packed) -> None:
    """Loaded before TorchDynamo was imported, which takes seconds that loading should not."""
    code = """
import sys, torch, p2u
sys.path[:0] = sys.argv[2:]
import nets
model = p2u.torch.load(sys.argv[1], nets.Net).eval()
assert "torch._dynamo" not in sys.modules
(x,) = nets.requests(1)
with torch.no_grad():
    model.p2u.wait()
    plain = model(x)
    compiled = torch.compile(model, backend="eager")
    for _ in range(3):
        assert torch.equal(compiled(x), plain)
assert not model.p2u._course.gate._pins
print("fine")
"""
    places = [str(p) for p in (nets.Path(__file__).parent, nets.Path(kit.__file__).parent)]
    assert kit.run_python(code, net.package, *places) == "fine\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_and_its_graphs(net: Packed) -> None:
    store = gated(net)
    model = p2u.torch.load(store, Net, device="cuda").eval()
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
    x = nets.requests(1)[0].cuda()
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)
        for label in STATES:
            store.open(label)
            with model.p2u.pinned(require=label, timeout=20):
                graph.replay()
                torch.cuda.synchronize()
                plain = net.plain(Net, label).cuda()
                plain.position = plain.position.cuda()
                assert torch.allclose(out, plain(x), atol=1e-4)


def test_torch_is_not_needed_for_the_rest() -> None:
    code = "import p2u, sys; p2u.torch; assert 'torch' not in sys.modules; print('fine')"
    assert kit.run_python(code) == "fine\n"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
