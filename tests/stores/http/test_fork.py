"""A store in a forked child, whose parent's threads held locks at that moment."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
from forking import in_child

from p2u.serve import FolderApp, Server
from p2u.stores import open_store
from p2u.stores.http.store import HttpStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")


def test_a_child_drops_connections_whose_lock_a_thread_held(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"bytes")
    with Server(FolderApp(tmp_path), "127.0.0.1", 0, quiet=True) as server:
        store = open_store(server.url)
        assert isinstance(store, HttpStore)
        assert store.read("object", limit=10) == b"bytes"

        def child() -> bytes:
            gc.collect()  # pools close their idle connections when they go
            found = store.read("object", limit=10)
            store.close()
            return found

        (idle,) = store._connections._idle
        with idle.mutex:  # as if a thread gave a connection back while this one forks
            assert in_child(child) == "b'bytes'"
        store.close()
