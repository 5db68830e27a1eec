"""What the tests of pulling share."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit import QUICK, Made
from store_kit import FlakyStore

from p2u.client.folder.pull import pull
from p2u.errors import StoreError
from p2u.stores import LocalStore


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".p2u")]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def interrupted(made: Made, dst: Path, requests: int, **options) -> None:
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n >= requests)
    with pytest.raises(StoreError):
        pull(store, dst, retry=QUICK, jobs=1, **options)
