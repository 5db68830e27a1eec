"""A live replica that goes from version to version."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kit
import later
import pytest
from following import SHARD, changed, files
from kit import QUICK, Made
from live_kit import flips_a_bit, open_with
from manifests import manifest_of, write_manifest
from store_kit import WrapperStore
from waiting import until

import p2u
from p2u.client.live.opening import open_replica
from p2u.client.live.replica import Replica
from p2u.client.live.staging.chained import gaps
from p2u.errors import (
    Cancelled,
    FormatError,
    IntegrityError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from p2u.package.geometry import Span
from p2u.serve import FolderApp, Server
from p2u.stores import LocalStore

SOON = 0.02


@pytest.fixture
def package(made: Made, tmp_path: Path) -> Path:
    """A package of one version, to add others to."""
    return Path(shutil.copytree(made.package, tmp_path / "pkg"))


@pytest.fixture
def models(made: Made, tmp_path: Path) -> dict[str, Path]:
    """Four versions of a model."""
    return {"v1": made.model} | {
        f"v{n}": changed(made.model, tmp_path / f"model{n}", n) for n in (2, 3, 4)
    }


def addresses(replica: Replica) -> dict[str, int]:
    return {name: a.__array_interface__["data"][0] for name, a in replica.tensors.items()}


def test_each_version_takes_the_place_of_the_one_before(package: Path, models) -> None:
    with open_replica(package, follow=SOON) as replica:
        replica.wait("v1@exact", timeout=20)
        arrays, places = replica.tensors, addresses(replica)
        for version in ("v2", "v3", "v4"):
            later.add(package, models[version], version)
            replica.wait(f"{version}@exact", timeout=20)
            replica.wait(version, timeout=20)
            assert (replica.version, replica.id) == (version, f"{version}@exact")
            assert replica.state == "exact"
            assert files(replica) == kit.tree(models[version])
            assert replica.progress.done == replica.progress.total
        replica.wait(timeout=20)
        assert replica.tensors is arrays and addresses(replica) == places
        assert [c.id for c in replica.commits[2:]] == ["v2@exact", "v3@exact", "v4@exact"]
        assert replica.staging == "copy" and replica.error is None
        with replica.pinned(require="exact") as label:
            assert label == "exact"
        with replica.pinned(require="v2@exact"):  # what is better will do
            pass


def test_versions_between_are_left_out(package: Path, models) -> None:
    """One commit; what is not coded anew is that of the versions on the way."""
    parts = {"v3": dict(kit.tree(models["v2"])), "v4": dict(kit.tree(models["v2"]))}
    parts["v3"]["tokenizer.json"] = (models["v3"] / "tokenizer.json").read_bytes()
    parts["v4"]["tokenizer.json"] = parts["v3"]["tokenizer.json"]
    parts["v4"]["config.json"] = b'{"model_type": "TEST"}'
    for version, content in parts.items():
        for path, data in content.items():
            (models[version] / path).write_bytes(data)
    with open_replica(package) as replica:
        replica.wait(timeout=20)
        for version in ("v2", "v3", "v4"):
            later.add(package, models[version], version)
        replica.refresh()
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(models["v4"]) == parts["v4"]
        assert [c.id for c in replica.commits[2:]] == ["v4@exact"]
        replica.wait("v2@exact", timeout=1)
        replica.wait("v3", timeout=1)
        replica.refresh()
        replica.wait(timeout=20)
        assert len(replica.commits) == 3
        with pytest.raises(UsageError, match="v5"):
            replica.wait("v5", timeout=1)


def test_a_late_one_comes_to_the_newest_state(package: Path, models) -> None:
    later.add(package, models["v2"], "v2")
    later.add(package, models["v3"], "v3")
    for options in ({}, {"follow": SOON}, {"mode": "eager"}, {"staging": "chunks"}):
        with open_replica(package, **options) as replica:
            replica.wait("base", timeout=20)
            replica.wait("exact", timeout=20)
            assert replica.id == "v3@exact"
            replica.wait("v3@exact", timeout=20)
            replica.wait(timeout=20)
            assert files(replica) == kit.tree(models["v3"])
            assert replica.states == ("base", "8bit", "exact", "exact", "exact")
    with open_replica(package, until="v2") as replica:
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(models["v2"])
    with open_replica(package, until="8bit") as replica:  # which only v1 has
        replica.wait(timeout=20)
        assert (replica.id, replica.state) == ("v3@exact", "exact")
        replica.wait("8bit", timeout=20)  # it is at least as good
    newest = p2u.load(package)
    assert newest.keys() == p2u.load(package, "base").keys() == p2u.load(package, "v1").keys()
    with open_replica(package, until="v3") as replica:
        replica.wait(timeout=20)
        for name, array in replica.tensors.items():
            assert array.tobytes() == newest[name].tobytes()
            assert array.tobytes() == p2u.load(package, "8bit")[name].tobytes()


def test_only_what_changed_is_fetched(package: Path, models) -> None:
    server, app = kit.counting_server(package)
    with server, open_replica(server.url, follow=SOON) as replica:
        replica.wait("v1@exact", timeout=20)
        app.reset()
        later.add(package, models["v2"], "v2")
        replica.wait("v2@exact", timeout=20)
        assert {path for path in app.paths if path != "/p2u.json"} == {
            "/v2/exact.index",
            "/v2/exact-000.bin",
        }
        time.sleep(2.2)  # then the server's times can be trusted
        replica.refresh()
        replica.wait(timeout=20)
        app.reset()
        time.sleep(10 * SOON)
        assert app.paths and set(app.paths) == {"/p2u.json"}
        assert app.sent == 0


@pytest.mark.parametrize(("wrong", "kind"), [("file", IntegrityError), ("payload", FormatError)])
def test_a_broken_version_leaves_the_one_before(
    package: Path, models, wrong: str, kind: type[Exception]
) -> None:
    with open_replica(package, follow=SOON) as replica:
        replica.wait("v1@exact", timeout=20)
        later.add(package, models["v2"], "v2", wrong=wrong)
        with pytest.raises(kind):
            replica.wait("v2@exact", timeout=20)
        assert isinstance(replica.error, kind)
        with replica.pinned(require="exact"):
            assert replica.version == "v1"
            assert files(replica) == kit.tree(models["v1"])
        # It cannot be told what v3 would be made of ...
        later.add(package, models["v3"], "v3", parent="v2")
        time.sleep(5 * SOON)
        assert replica.version == "v1" and replica.error is not None
        # ... but a later one comes, whose parent is right.
        later.add(package, models["v4"], "v4", parent="v1")
        until(lambda: replica.version == "v4")
        assert files(replica) == kit.tree(models["v4"])
        replica.wait(timeout=20)
        assert replica.error is None


def test_of_a_chain_the_good_part_is_gone(package: Path, models) -> None:
    """v3 is broken: v2 is better than v1."""
    with open_replica(package) as replica:
        replica.wait(timeout=20)
        later.add(package, models["v2"], "v2")
        later.add(package, models["v3"], "v3", wrong="file")
        replica.refresh()
        with pytest.raises(IntegrityError, match="v3@exact"):
            replica.wait(timeout=20)
        assert replica.id == "v2@exact"
        assert files(replica) == kit.tree(models["v2"])
        later.add(package, models["v4"], "v4", parent="v2")
        replica.refresh()
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(models["v4"]) and replica.error is None


def test_another_way_round_what_is_broken(package: Path, models) -> None:
    """From a newer base, which costs more than the update; also with one commit."""
    with open_replica(package) as replica:
        replica.wait(timeout=20)
        places = addresses(replica)
        later.add_base(package, models["v2"], "v2")
        _update_between(package, models["v2"], "v2", wrong="file")
        replica.refresh()
        replica.wait(timeout=20)
        assert replica.error is None and replica.id == "v2@exact"
        assert files(replica) == kit.tree(models["v2"])
        assert [c.id for c in replica.commits[2:]] == ["v2@exact"]
        assert addresses(replica) == places


def _update_between(package: Path, model: Path, version: str, **options) -> None:
    """Give a version that has a base an update from v1 as well."""
    manifest = manifest_of(package)
    other = package.with_name("other")
    shutil.copytree(package, other)
    shutil.rmtree(other / version)
    from dataclasses import replace

    kept = tuple(u for u in manifest.updates if not u.target.startswith(f"{version}@"))
    write_manifest(other, replace(manifest, releases=manifest.releases[:-1], updates=kept))
    later.add(other, model, version, **options)
    (update,) = [u for u in manifest_of(other).updates if u.target == f"{version}@exact"]
    for name in (update.index.key, *(blob.key for blob in update.blobs)):
        (package / version / "by").mkdir(exist_ok=True)
        shutil.copy(other / name, package / version / "by")

    def moved(thing):
        return replace(thing, key=f"{version}/by/{thing.key.rpartition('/')[2]}")

    update = replace(
        update, index=moved(update.index), blobs=tuple(moved(blob) for blob in update.blobs)
    )
    write_manifest(package, replace(manifest, updates=(*manifest.updates, update)))


def test_a_blob_that_is_damaged_or_late_is_asked_for_again(package: Path, models) -> None:
    with open_replica(package, follow=SOON, retry=QUICK) as replica:
        replica.wait("v1@exact", timeout=20)
        for version, wrong in (("v2", "blob"), ("v3", "missing")):
            before = replica.id
            good = package.with_name(f"good-{version}")
            shutil.copytree(package, good)
            later.add(good, models[version], version)
            later.add(package, models[version], version, wrong=wrong)
            until(lambda: replica.error is not None)
            assert isinstance(replica.error, IntegrityError | StoreError)
            with pytest.raises(TimeoutError):
                replica.wait(version, timeout=0.1)
            assert replica.id == before
            key = f"{version}/exact-000.bin"
            shutil.copy(good / key, package / "part")
            (package / "part").replace(package / key)
            replica.wait(version, timeout=20)
            assert files(replica) == kit.tree(models[version])


def test_tensors_that_are_others(package: Path, models, tmp_path: Path) -> None:
    """A clear error; the model answers on; a later version with its tensors is taken."""
    other = tmp_path / "other"
    shutil.copytree(models["v2"], other)
    for name in (SHARD, "model.safetensors.index.json"):
        data = (other / name).read_bytes()
        (other / name).write_bytes(data.replace(b"layers.0.norm", b"layers.0.NORM"))
    with open_replica(package, follow=SOON) as replica:
        replica.wait("v1@exact", timeout=20)
        later.add_base(package, other, "v2")
        with pytest.raises(UnsupportedError, match=r"layers\.0\.norm.*anew"):
            replica.wait("v2", timeout=20)
        with replica.pinned(require="exact"):
            assert files(replica) == kit.tree(models["v1"])
        later.add(package, models["v3"], "v3", parent="v1")
        until(lambda: replica.version == "v3")
        assert files(replica) == kit.tree(models["v3"])
    with open_replica(package) as replica:
        replica.wait(timeout=20)
        assert replica.version == "v3"


def test_readers_see_one_version(package: Path, models) -> None:
    """Threads that pin while versions change: always the bytes of exactly one."""
    want = {version: kit.tree(folder) for version, folder in models.items()}
    seen: set[str] = set()
    with open_replica(package, follow=SOON, patience=1.0) as replica:
        replica.wait("v1@exact", timeout=20)
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                with replica.pinned(brief=True):
                    version = replica.version
                    assert version is not None
                    assert files(replica) == want[version]
                    assert replica.version == version
                    seen.add(version)

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            for version in ("v2", "v3", "v4"):
                later.add(package, models[version], version)
                replica.wait(version, timeout=20)
                time.sleep(0.05)
            ended.set()
            for reader in readers:
                reader.result(timeout=20)
    assert seen == set(models)


def test_the_network_dies_and_comes_back(package: Path, models, caplog) -> None:
    """It is tried again for as long as it takes; who waits for the version waits."""
    server, app = kit.counting_server(package)
    with server:
        url, port = server.url, int(server.url.rpartition(":")[2].strip("/"))
        replica = open_replica(url, follow=SOON, retry=QUICK)
        replica.wait("v1@exact", timeout=20)
    with replica:
        until(lambda: isinstance(replica.error, StoreError))
        with replica.pinned(require="exact"):
            assert files(replica) == kit.tree(models["v1"])
        later.add(package, models["v2"], "v2")
        with pytest.raises(TimeoutError):
            replica.wait("v2", timeout=0.2)
        assert caplog.text.count("following http") == 1
        with Server(app, "127.0.0.1", port, quiet=True):
            replica.wait("v2", timeout=30)
            replica.wait(timeout=20)
            assert replica.error is None
        assert files(replica) == kit.tree(models["v2"])


def test_what_was_fetched_of_a_version_is_kept(package: Path, models) -> None:
    class Dying(WrapperStore):
        left = 3

        def stream(self, key, start, length):
            for piece in super().stream(key, start, length):
                for at in range(0, len(piece), 4096):
                    if key.startswith("v2/") and key.endswith(".bin"):
                        self.left -= 1
                        taken.append(at)
                        if not self.left:
                            raise StoreError("dead (on purpose)")
                    yield piece[at : at + 4096]

    taken: list[int] = []
    store = Dying(LocalStore(package))
    with open_replica(store, follow=SOON, jobs=1) as replica:
        replica.wait("v1@exact", timeout=20)
        later.add(package, models["v2"], "v2")
        replica.wait("v2", timeout=20)
        assert files(replica) == kit.tree(models["v2"])
        blob = (package / "v2" / "exact-000.bin").stat().st_size
        assert len(taken) <= -(-blob // 4096) + 12


def test_a_chain_goes_on_where_it_was(package: Path, models) -> None:
    """Also where nobody checks the files at its end, and the transfer ends between."""

    class Dying(FolderApp):
        def __call__(self, environ, start_response):
            asked.append(environ["PATH_INFO"])
            if asked[-1] == "/v3/exact.index" and not alive.is_set():
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            return super().__call__(environ, start_response)

    shutil.copy(models["v2"] / SHARD, models["v3"])  # only v2 brings it
    alive = threading.Event()
    asked: list[str] = []
    with (
        Server(Dying(package), "127.0.0.1", 0, quiet=True) as server,
        open_with(server.url, check="none", retry=QUICK) as replica,
    ):
        replica.wait(timeout=20)
        later.add(package, models["v2"], "v2")
        later.add(package, models["v3"], "v3")
        replica.refresh()
        with pytest.raises(StoreError, match="503"):
            replica.wait(timeout=20)
        assert replica.id == "v1@exact" and "/v2/exact-000.bin" in asked
        asked.clear()
        alive.set()
        replica.refresh()
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(models["v3"])
        assert "/v2/exact-000.bin" not in asked


def test_an_old_manifest_is_no_newer_version(package: Path, models) -> None:
    """A cache on the way may give one."""
    before = package.with_name("before")
    shutil.copytree(package, before)
    later.add(package, models["v2"], "v2")
    with open_replica(package, follow=SOON) as replica:
        replica.wait("v2", timeout=20)
        new = (package / "p2u.json").read_bytes()
        # Only what the replica has seen counts: v1 was on its way.
        replica.refresh()
        replica.wait(timeout=20)
        shutil.copy(before / "p2u.json", package / "p2u.json")
        time.sleep(5 * SOON)
        replica.refresh()
        replica.wait(timeout=20)
        assert replica.version == "v2" and replica.error is None
        (package / "p2u.json").write_bytes(new)
        later.add(package, models["v3"], "v3")
        replica.wait("v3", timeout=20)
        assert files(replica) == kit.tree(models["v3"])


def test_a_version_that_is_published_while_the_first_one_arrives(package: Path, models) -> None:
    with open_replica(package, follow=SOON, limit_rate=300_000.0) as replica:
        replica.wait("base", timeout=20)
        later.add(package, models["v2"], "v2")
        replica.wait("v2", timeout=20)
        assert files(replica) == kit.tree(models["v2"])


def test_a_first_version_that_is_broken_gives_way(package: Path, models) -> None:
    faulty = flips_a_bit("8bit")
    options = {"staging": "copy", "check": "all"}
    with open_with(package, follow=SOON, decode=faulty, **options) as replica:
        with pytest.raises(IntegrityError, match="8bit"):
            replica.wait("exact", timeout=20)
        assert replica.id == "v1@base"
        later.add_base(package, models["v2"], "v2")
        until(lambda: replica.version == "v2")
        assert files(replica) == kit.tree(models["v2"])
        replica.wait(timeout=20)


def test_a_store_of_the_users_stays_open(package: Path, models) -> None:
    closed = []

    class Noting(WrapperStore):
        def close(self):
            closed.append(1)
            super().close()

    replica = open_replica(Noting(LocalStore(package)), follow=float("inf"))
    replica.wait(timeout=20)
    for version in ("v2", "v3"):
        later.add(package, models[version], version)
        time.sleep(0.05)
        assert replica.version != version
        replica.refresh()
        replica.wait(timeout=20)
        assert replica.version == version and not closed
    replica.cancel()
    assert closed


def test_cancel_whatever_it_does(package: Path, models) -> None:
    for source, wait in ((package, 0.0), (package, 0.1)):
        replica = open_replica(source, follow=3600.0, jobs=2)
        if wait:
            replica.wait("exact", timeout=20)
            time.sleep(wait)
        begin = time.monotonic()
        replica.cancel()
        assert time.monotonic() - begin < 2
        with pytest.raises(Cancelled):
            replica.refresh()
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]


def test_options_that_do_not_fit(package: Path) -> None:
    for options in (
        {"follow": 0.0},
        {"follow": -1.0},
        {"follow": 1.0, "mode": "eager"},
        {"follow": 1.0, "until": "v1@exact"},
    ):
        with pytest.raises(UsageError):
            open_replica(package, **options)
    with open_replica(package, mode="eager") as replica:
        replica.wait(timeout=20)
        with pytest.raises(UsageError, match="eager"):
            replica.refresh()
    with open_replica(package, follow=1.0) as replica:
        replica.wait(timeout=20)
        with pytest.raises(TimeoutError):
            replica.wait("v9@exact", timeout=0.05)


def test_gaps() -> None:
    ranges = {1: [(0, 5), (8, 10), (20, 30)]}
    assert list(gaps(Span(1, 3, 20), ranges)) == [(5, 8), (10, 20)]
    assert list(gaps(Span(1, 0, 5), ranges)) == []
    assert list(gaps(Span(1, 30, 2), ranges)) == [(30, 32)]
    assert list(gaps(Span(0, 3, 4), ranges)) == [(3, 7)]
