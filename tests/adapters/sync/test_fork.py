"""Publishers and subscribers in forked children, as workers of a trainer's data loader are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forking import in_child, raised

torch = pytest.importorskip("torch")

import p2u  # noqa: E402
from p2u.serve import FolderApp, Server  # noqa: E402

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks with threads"),
    pytest.mark.usefixtures("few_threads"),
]


def weights(value: float):
    return {"w": torch.full((64, 64), value)}


def test_only_the_parent_publishes(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    with p2u.sync.Publisher(package) as publisher:
        publisher.publish(weights(1.0), 1)
        publisher.flush(60)

        def child() -> str:
            said = raised(lambda: publisher.publish(weights(2.0), 2))
            publisher.close()
            return said + raised(lambda: p2u.sync.Publisher(package))

        said = in_child(child)
        assert "forked" in said and "BusyError" in said
        publisher.publish(weights(3.0), 3)
        publisher.flush(60)
        assert [p.step for p in publisher.published] == [1, 3]
    p2u.sync.Publisher(package).close()


class Numbers(torch.utils.data.Dataset):
    """Each item is what a worker's copy of a live model holds."""

    def __init__(self, model) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int):
        return self.model(torch.ones(1, 64)).sum().item() + number


class Multiply(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.empty(64, 64))

    def forward(self, x):
        return x @ self.w


def test_a_data_loader_with_workers(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    with p2u.sync.Publisher(package) as publisher:
        publisher.publish(weights(1.0), 1)
        publisher.flush(60)
    model = p2u.torch.load(package, Multiply, follow=0.05)
    model.p2u.wait("exact", timeout=60)
    loader = torch.utils.data.DataLoader(Numbers(model), num_workers=2, batch_size=2)
    with torch.no_grad():
        found = [batch.tolist() for batch in loader]
    assert found == [[4096.0, 4097.0], [4098.0, 4099.0]]
    model.p2u.cancel()


@pytest.mark.parametrize("directory", [False, True])
def test_a_subscriber_goes_on_in_the_child(tmp_path: Path, directory: bool) -> None:
    package = tmp_path / "pkg"
    publisher = p2u.sync.Publisher(package)
    publisher.publish(weights(1.0), 1)
    publisher.flush(60)
    folder = tmp_path / "model" if directory else None
    with (
        Server(FolderApp(package), "127.0.0.1", 0, quiet=True) as server,
        p2u.sync.Subscriber(server.url, directory=folder) as subscriber,
    ):
        model = weights(0.0)
        assert subscriber.apply(model) == 1
        publisher.publish(weights(2.0), 2)
        publisher.flush(60)

        def child() -> str:
            assert subscriber.apply(model, timeout=30) == 1
            assert (model["w"] == 2).all() and subscriber.step == 2
            subscriber.close()
            return "ok"

        assert in_child(child) == "ok"
        assert (model["w"] == 1).all()
        assert subscriber.apply(model) == 1 and (model["w"] == 2).all()
    publisher.close()
