"""Makes small PyTorch models, their packages and their states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from store_kit import GatedStore

torch = pytest.importorskip("torch")

from kit import STATES  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from p2u.client.folder.pull import pull  # noqa: E402
from p2u.packing.packer import pack_first  # noqa: E402
from p2u.packing.settings import make_settings  # noqa: E402
from p2u.stores import LocalStore  # noqa: E402

nn = torch.nn


class Net(nn.Module):
    """Tied weights, batch norm, buffers that no file has, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, 64)
        self.up = nn.Linear(64, 256)
        self.norm = nn.BatchNorm1d(256)
        self.down = nn.Linear(256, 64)
        self.head = nn.Linear(64, 300, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("freq", 1 / 10 ** torch.linspace(0, 4, 64), persistent=False)
        self.position = torch.arange(64).float()

    def forward(self, ids):
        x = self.embed(ids).mean(1) + (self.position * self.freq).sin().to(self.embed.weight.dtype)
        x = x + self.down(torch.relu(self.norm(self.up(x))))
        return self.head(x)


def requests(count: int, seed: int = 0):
    """Inputs of `Net`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (2, 7), generator=generator) for _ in range(count)]


@dataclass(frozen=True)
class Packed:
    """A model directory, its package, and each state as a directory."""

    model: Path
    package: Path
    states: dict[str, Path]

    def tensors(self, label: str):
        """Name to tensor of a state, as safetensors reads them."""
        found = {}
        for path in sorted(self.states[label].rglob("*.safetensors")):
            found |= load_file(path)
        return found

    def plain(self, factory: Callable[[], nn.Module], label: str) -> nn.Module:
        """The module with a state's weights by torch's own means."""
        model = factory().eval()
        tied = model.head.weight is model.embed.weight
        missing, unexpected = model.load_state_dict(self.tensors(label), strict=False, assign=True)
        assert not unexpected
        if "head.weight" in missing:
            model.head.weight = model.embed.weight
        elif tied:  # the last one counts; before the exact state the file's two may differ
            model.embed.weight = model.head.weight
        return model


def pack_tensors(folder: Path, files: dict[str, dict[str, torch.Tensor]]) -> Packed:
    """Write tensors by file, pack them in many chunks, and pull every state."""
    model = folder / "model"
    for name, tensors in files.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, model / name)
    return pack_folder(model, folder)


def pack_folder(model: Path, folder: Path) -> Packed:
    """Pack a directory in many chunks, and pull every state."""
    settings = make_settings(jobs=2, chunk_elements=1 << 12)
    pack_first(str(model), str(folder / "pkg"), settings)
    for label in STATES:
        pull(folder / "pkg", folder / label, until=label)
    return Packed(model, folder / "pkg", {label: folder / label for label in STATES})


def net_weights(seed: int = 3) -> dict[str, torch.Tensor]:
    """Weights of `Net`; the tied ones once, as transformers writes them."""
    torch.manual_seed(seed)
    net = Net()
    for _ in range(3):
        net(torch.randint(0, 300, (16, 7)))  # for batch norm's statistics
    state = net.state_dict()
    del state["head.weight"]
    return state


def gated(packed: Packed, *labels: str) -> GatedStore:
    """Its package with the base and some more states let through."""
    return GatedStore(LocalStore(packed.package), "base", *labels)


def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether all tensors are bitwise the same, those that no file has too."""
    mine, theirs = (
        {**dict(m.named_parameters(remove_duplicate=False)), **dict(m.named_buffers())}
        for m in (model, other)
    )
    assert mine.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in mine.items())


def through_all_states(store: GatedStore, model: nn.Module, packed: Packed, factory) -> None:
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
