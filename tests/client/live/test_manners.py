"""What users of the libraries beside it expect: version, reprs, close, async, log."""

from __future__ import annotations

import asyncio
import logging
import re

import kit
from following import files
from store_kit import GatedStore

import p2u
from p2u.client.live.opening import open_replica
from p2u.stores import LocalStore


def test_the_version() -> None:
    assert re.match(r"\d+(\.\d+)*|0\+unknown", p2u.__version__)
    assert "__version__" in dir(p2u)


def test_reprs_are_short_and_say_where_it_is(made) -> None:
    store = GatedStore(LocalStore(made.package), "base")
    with open_replica(store) as replica:
        assert "nothing yet" in repr(replica) or "v1@base" in repr(replica)
        replica.wait("base", timeout=20)
        assert "v1@base, refining" in repr(replica)
        shown = replica._repr_html_()
        assert "<progress value=" in shown and "base" in shown and "&lt;p2u.Replica" in shown
        store.open("8bit")
        store.open("exact")
        replica.wait(timeout=20)
        loaded = p2u.load(made.package)
        for found in (replica.tensors, loaded):
            text = repr(found)
            assert len(text) < 300 and f"{len(found)} tensors" in text and "float32" in text
        for found in (replica, replica.progress, replica.commits, replica.files):
            assert len(repr(found)) < 1000
    assert isinstance(loaded, dict) and loaded == {**loaded}


def test_close_and_async_with(made) -> None:
    replica = p2u.open(made.package)
    replica.wait(timeout=20)
    replica.close()
    replica.close()

    async def use() -> str:
        async with p2u.open(made.package) as live:
            await asyncio.to_thread(live.wait, "exact", 20)
            assert files(live) == kit.tree(made.model)
            return live.state

    assert asyncio.run(use()) == "exact"


def test_the_log_tells_the_route_and_each_commit(made, caplog) -> None:
    with caplog.at_level(logging.DEBUG, "p2u"), p2u.open(made.package) as replica:
        replica.wait(timeout=20)
    for part in ("v1@base, v1@8bit, v1@exact", "commit to v1@8bit: ", "v1@exact is here"):
        assert part in caplog.text
