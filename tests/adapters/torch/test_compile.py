"""Compiled modules and CUDA graphs: they keep their addresses and see each state."""

from __future__ import annotations

import kit
import pytest
from kit import STATES

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from nets import Net, Packed, gated  # noqa: E402

import p2u  # noqa: E402


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
    assert not model.p2u._parts.pins._pins


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
            assert not model.p2u._parts.pins._pins


@pytest.mark.slow
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
assert not model.p2u._parts.pins._pins
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
