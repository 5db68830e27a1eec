"""Putting a package into a module: states, views, dtypes, options, failures."""

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
from nets import Net, Packed, gated, nn, same, through_all_states  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import P2UError, UsageError  # noqa: E402


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


#: Prints whether torch was imported when the transfer began, and at the end.
BEGIN = """
import sys
import p2u.client.live.live_transfer
begin = p2u.client.live.live_transfer.LiveTransfer.start
seen = []
def start(self):
    seen.append("torch" in sys.modules)
    return begin(self)
p2u.client.live.live_transfer.LiveTransfer.start = start
from p2u.adapters.torch.loading import Options, start
start(sys.argv[1], Options()).cancel()
print(*seen, "torch" in sys.modules)
"""


@pytest.mark.slow
def test_the_transfer_begins_before_torch_is_imported(net: Packed) -> None:
    command = [sys.executable, "-c", BEGIN, str(net.package)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert out.split() == ["False", "True"]


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
    with pytest.raises(UsageError, match="need each other"):
        p2u.torch.load(net.package, Net, state="best")
    with pytest.raises(UsageError, match="need each other"):
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


def test_torch_is_not_needed_for_the_rest() -> None:
    code = "import p2u, sys; p2u.torch; assert 'torch' not in sys.modules; print('fine')"
    assert kit.run_python(code) == "fine\n"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
