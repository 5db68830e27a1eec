"""P2U as a method: the states of real packages, and what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest

import p2u
from p2u.errors import UnsupportedError
from p2u_lab.base import Trainable
from p2u_lab.methods import METHODS
from p2u_lab.methods.progressive import Progressive

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file


class Uneven(torch.nn.Module):
    """Two layers, of which one hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        self.much = torch.nn.Linear(64, 128)
        self.little = torch.nn.Linear(64, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.much(x) + 0.01 * self.little(x)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return Uneven().eval()


@pytest.fixture
def source(net: torch.nn.Module, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "net"}')
    return folder


def test_states_and_what_a_client_fetches(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    content = {p.name: p.read_bytes() for p in source.iterdir()}
    seen = []
    for point in METHODS["p2u"]().points(source, work, [8, 4, 3], None):
        seen.append((point.state, point.bits, point.exact))
        files = {p.name: p.read_bytes() for p in point.folder.iterdir() if p.name[0] != "."}
        assert (files == content) is point.exact
        assert files.keys() == content.keys()
        package = tmp_path / "package"
        p2u.pack(source, package, bits=point.bits, replace=True)
        fresh = tmp_path / f"{point.state}-{point.bits}"
        assert point.bytes == p2u.pull(package, fresh, until=point.state).fetched
        assert (fresh / "model.safetensors").read_bytes() == files["model.safetensors"]
    states = ("base", "8bit", "exact")
    assert seen == [(s, bits, s == "exact") for bits in (3.0, 4.0) for s in states]
    assert list(work.iterdir()) == []


def test_levels_can_be_chosen(source: Path, tmp_path: Path) -> None:
    method = Progressive(levels=("base", "exact"))
    assert [p.state for p in method.points(source, tmp_path, [3], None)] == ["base", "exact"]


@pytest.mark.parametrize("name", ["p2u+sensitivity", "p2u+calibration"])
def test_what_was_learned_is_used(
    net: torch.nn.Module, source: Path, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(1)
    batches = [torch.randn(32, 64) * torch.linspace(0.01, 3, 64) for _ in range(4)]
    errors = {}
    for label in ("p2u", name):
        work = tmp_path / label
        work.mkdir()
        trainable = Trainable(net, batches, "logits")
        points = METHODS[label]().points(source, work, [3], trainable)
        base = next(points)
        assert (base.method, base.state) == (label, "base")
        coarse = _load(base.folder)
        with torch.no_grad():
            wanted = torch.cat([net(x) for x in batches])
            got = torch.cat([torch.func.functional_call(net, coarse, (x,)) for x in batches])
        errors[label] = float((wanted - got).square().mean())
        exact = list(points)[-1]
        assert exact.exact
    assert errors[name] < errors["p2u"]


def _load(folder: Path) -> dict[str, torch.Tensor]:
    load = pytest.importorskip("safetensors.torch").load_file
    found: dict[str, torch.Tensor] = load(folder / "model.safetensors")
    return found


@pytest.mark.parametrize("name", ["p2u+sensitivity", "p2u+calibration"])
def test_nothing_to_learn_from(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="module"):
        next(METHODS[name]().points(source, tmp_path, [3], None))


def test_every_name_makes_a_method_of_that_name() -> None:
    for name, make in METHODS.items():
        assert make().name == name
