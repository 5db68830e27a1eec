"""Trains a small model, for the tests of ``p2u.sync``."""

from __future__ import annotations

from pathlib import Path

import nets
import torch

from p2u.client.transfer.package_reader import PackageReader


class Trainer:
    """A small model, and something like steps of training."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nets.Net()
        self.random = torch.Generator().manual_seed(seed)
        self.step = 0

    def train(self) -> None:
        self.step += 1
        with torch.no_grad():
            for parameter in self.model.parameters():
                mask = torch.rand(parameter.shape, generator=self.random) < 0.05
                noise = torch.randn(parameter.shape, generator=self.random)
                parameter += 1e-4 * mask * noise
            self.model.norm.num_batches_tracked += 1

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def equal(model, state: dict[str, torch.Tensor]) -> bool:
    mine = model if isinstance(model, dict) else model.state_dict()
    return all(torch.equal(mine[name], value.to(mine[name].dtype)) for name, value in state.items())


def steps(package: Path) -> list[str]:
    with PackageReader(package) as opened:
        return [release.version for release in opened.manifest.releases]
