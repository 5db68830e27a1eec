"""Pulls with limits of the test's own, breaks pulls off, and compares folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit import QUICK, Made, tree
from store_kit import FlakyStore
from versions import Versions

from p2u.client.folder.pull import PullResult, pull, run_pull
from p2u.client.folder.pull_task import PullTask
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.requests import RequestSizes
from p2u.errors import StoreError
from p2u.stores import LocalStore

#: One request per chunk.
SMALL = RequestSizes(least=1, most=1)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".p2u")]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def change_unseen(path: Path) -> None:
    """Change a byte of a file, and nothing that can be seen without reading it."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def pull_with(
    source,
    target: Path,
    *,
    sizes: RequestSizes = SMALL,
    dry_run: bool = False,
    **keywords,
) -> PullResult:
    """As `pull`, with what only tests choose: by default one request per chunk."""
    fetching = {"jobs", "limit_rate", "retry", "straight"} & keywords.keys()
    transfer = {name: keywords.pop(name) for name in fetching}
    options = TransferOptions(request_sizes=sizes, **transfer)
    return run_pull(source, target, PullTask(**keywords), options, dry_run=dry_run)


def interrupted(made: Made, dst: Path, requests: int, *, straight=False, **options) -> None:
    """A pull that ends after so many requests, by default step by step."""
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n >= requests)
    with pytest.raises(StoreError):
        pull_with(store, dst, retry=QUICK, jobs=1, straight=straight, **options)


def have(versions: Versions, state: str, folder: Path) -> Path:
    """A folder with a state, and a file that is not the package's."""
    pull(versions.package, folder, until=state)
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    return folder


def only_model(versions: Versions, version: str, folder: Path) -> None:
    """The folder has exactly the files of a version, and what was not the package's."""
    found = tree(folder)
    assert found.pop("mine/notes.txt", b"mine") == b"mine"
    assert found == tree(versions.models[version])
