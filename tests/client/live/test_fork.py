"""Live models, stores and locks in forked children, as gunicorn and DataLoader make them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
from pathlib import Path

import kit
import later
import pytest
from following import changed, files
from forking import PATIENCE, in_child, raised
from store_kit import GatedStore

import p2u
from p2u.client.live.opening import open_replica
from p2u.disk.locks import FileLock
from p2u.errors import BusyError
from p2u.stores import LocalStore, open_store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")


def test_a_child_stays_at_the_state_and_says_so(made) -> None:
    store = GatedStore(LocalStore(made.package), "base")
    with open_replica(store) as replica:
        replica.wait("base", timeout=20)

        def child() -> str:
            with replica.pinned(require="base", timeout=5) as state:
                assert files(replica) == kit.tree(made.states["base"])
            replica.wait("base", timeout=5)
            tried = (
                lambda: replica.wait("exact"),
                replica.wait,
                replica.refresh,
                replica.resume,
                lambda: replica.pinned(require="exact").enter(),
            )
            errors = {raised(action) for action in tried}
            assert len(errors) == 1 and str(replica.error) in errors.pop()
            replica.on_state(lambda label: None)
            replica.cancel()
            return f"{state} {replica.progress.state} {replica.error}"

        said = in_child(child)
        assert said.startswith("base base ") and "forked" in said and "post_fork" in said
        store.open("8bit")
        store.open("exact")
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(made.states["exact"])
        assert replica.error is None


def test_a_complete_model_is_complete_in_the_child(made) -> None:
    with open_replica(made.package) as replica:
        replica.wait(timeout=20)

        def child() -> str:
            replica.wait(timeout=5)
            assert files(replica) == kit.tree(made.states["exact"])
            return f"{replica.error} {raised(replica.refresh)}"

        said = in_child(child)
        assert said.startswith("None UsageError") and "forked" in said


def test_forks_while_states_are_committed_and_pinned(made, tmp_path: Path) -> None:
    """Each child holds exactly one state, whatever the parent's threads were doing."""
    package = Path(shutil.copytree(made.package, tmp_path / "pkg"))
    trees = {"v1": kit.tree(made.model)}
    models = {f"v{n}": changed(made.model, tmp_path / f"m{n}", n) for n in range(2, 7)}
    trees |= {name: kit.tree(folder) for name, folder in models.items()}
    stop = threading.Event()
    with open_replica(package, follow=0.005) as replica:
        replica.wait("v1@exact", timeout=20)

        def serve() -> None:
            while not stop.is_set():
                with replica.pinned(brief=True):
                    replica.tensors["embed.weight"].sum()

        def publish() -> None:
            for version, model in models.items():
                later.add(package, model, version)
                replica.wait(version, timeout=60)

        def child() -> str:
            with replica.pinned(timeout=PATIENCE):
                assert files(replica) == trees[replica.version]
            return replica.version

        threads = [threading.Thread(target=serve) for _ in range(2)]
        threads.append(threading.Thread(target=publish))
        for thread in threads:
            thread.start()
        seen = {in_child(child)}
        while threads[-1].is_alive():
            seen.add(in_child(child))
        stop.set()
        for thread in threads:
            thread.join(60)
        assert in_child(child) == "v6" and seen <= trees.keys()
        assert replica.error is None


def test_a_fork_by_who_pins_and_by_who_is_called_in_a_commit(made) -> None:
    store = GatedStore(LocalStore(made.package), "base")
    said = []
    with open_replica(store) as replica:
        replica.wait("base", timeout=20)
        with replica.pinned():

            def nested() -> str:
                with replica.pinned():
                    return replica.state

            assert in_child(nested) == "base"
        replica.on_commit(
            lambda label: said.append(in_child(lambda: raised(replica.pinned().enter)))
        )
        store.open("8bit")
        replica.wait("8bit", timeout=20)
        # In the middle of a commit the memory holds no state.
        assert len(said) == 1 and "forked" in said[0]
        with replica.pinned():
            pass


def test_children_open_packages_of_their_own(made) -> None:
    """Also through a store that the parent has connections of."""
    server, app = kit.counting_server(made.package)
    with server, open_store(server.url) as store:
        manifest = store.read("p2u.json", limit=1 << 20)
        here = app.requests if hasattr(app, "requests") else None

        def child() -> str:
            assert store.read("p2u.json", limit=1 << 20) == manifest
            loaded = p2u.load(server.url)
            with open_replica(server.url, follow=60) as replica:
                replica.wait("exact", timeout=20)
                assert all((loaded[k] == v).all() for k, v in replica.tensors.items())
            return "ok"

        assert in_child(child) == "ok"
        assert here is None or here
        assert store.read("p2u.json", limit=1 << 20) == manifest


def _answer(queue) -> None:
    with REPLICAS[0].pinned(timeout=10) as state:
        queue.put((state, float(REPLICAS[0].tensors["embed.weight"].sum())))


REPLICAS: list = []


def test_multiprocessing_with_fork(made) -> None:
    store = GatedStore(LocalStore(made.package), "base")
    with open_replica(store) as replica:
        replica.wait("base", timeout=20)
        REPLICAS[:] = [replica]
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        processes = [context.Process(target=_answer, args=(queue,)) for _ in range(3)]
        for process in processes:
            process.start()
        answers = {queue.get(timeout=60) for _ in processes}
        for process in processes:
            process.join(60)
        assert answers == {("base", float(replica.tensors["embed.weight"].sum()))}
        assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_child_neither_keeps_nor_gives_back_a_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", "held by {owner}", "wait")
    lock.acquire()

    def child() -> str:
        assert not lock.held
        lock.release()
        return raised(FileLock(tmp_path / "lock", "held by {owner}", "wait").acquire)

    assert "BusyError" in in_child(child)
    assert lock.held and (tmp_path / "lock").read_text()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # a child that lives on when the parent has released the lock
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        lock.release(remove=False)
        with FileLock(tmp_path / "lock", "held by {owner}", "wait") as again:
            with pytest.raises(BusyError):
                FileLock(tmp_path / "lock", "held by {owner}", "wait").acquire()
            assert again.held
    finally:
        os.close(write)
        os.waitpid(pid, 0)
