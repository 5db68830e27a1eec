"""Fixtures of the adapters' tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nets import Packed


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """The package and the states of a `nets.Net`."""
    import nets  # needs torch, which not every test here does

    return nets.pack_tensors(
        tmp_path_factory.mktemp("net"), {"model.safetensors": nets.net_weights()}
    )


@pytest.fixture
def few_threads() -> Iterator[None]:
    """One thread of torch's own: the test has many callers, and the machine few processors."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
