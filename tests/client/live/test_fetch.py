"""Versions that a live replica stages, and that its caller commits, takes back or drops."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import kit
import later
import numpy as np
import pytest
from following import changed, files
from kit import Made
from live_kit import flips_a_bit

from p2u.client.live.plan import LivePlan
from p2u.client.live.replica import Replica
from p2u.client.live.staged_version import StagedVersion, layer_of
from p2u.client.live.staging.tools import StagingTools
from p2u.errors import ConflictError, IntegrityError, UsageError
from p2u.names.order import forward_key


@pytest.fixture
def models(made: Made, tmp_path: Path) -> dict[str, Path]:
    return {"v1": made.model} | {
        f"v{n}": changed(made.model, tmp_path / f"model{n}", n) for n in (2, 3)
    }


@pytest.fixture
def package(made: Made, models: dict[str, Path], tmp_path: Path) -> Path:
    """A package of two versions."""
    package = Path(shutil.copytree(made.package, tmp_path / "pkg"))
    later.add(package, models["v2"], "v2")
    return package


def hold(package: Path, until: str = "v1@exact", **tools) -> Replica:
    return Replica(package, LivePlan(until=until, hold=True, tools=StagingTools(**tools)))


def fetch(
    replica: Replica, version: str | None = None, timeout: float | None = 20
) -> StagedVersion:
    staged = replica.fetch(version, timeout)
    assert staged is not None
    return staged


def values(staged: StagedVersion, **options) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in staged.tensors(**options)}


def here(replica: Replica) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in replica.tensors.items()}


def test_a_fetch_touches_nothing_until_its_commit(package: Path, models) -> None:
    with hold(package) as replica:
        replica.wait("v1@exact", timeout=20)
        before = here(replica)
        staged = fetch(replica, "v2")
        assert (replica.id, here(replica)) == ("v1@exact", before)
        assert files(replica) == kit.tree(models["v1"])

        new = values(staged)
        staged.commit()
        assert (replica.id, here(replica)) == ("v2@exact", new)
        assert files(replica) == kit.tree(models["v2"])
        assert values(staged) == new
        assert replica.fetch(timeout=20) is None


def test_the_first_version_is_given_as_a_whole(package: Path) -> None:
    with hold(package, until="v2") as replica:
        staged = fetch(replica)
        assert (staged.source, staged.version) == (None, "v2")
        assert values(staged) == here(replica)
        staged.commit()
        staged.discard()  # nothing to drop
        assert values(staged, have=staged.digest) == {}
        assert replica.fetch(timeout=20) is None


def test_a_commit_can_be_taken_back(package: Path, models) -> None:
    with hold(package) as replica:
        replica.wait("v1@exact", timeout=20)
        before = here(replica)
        for _ in range(2):
            staged = fetch(replica, "v2")
            staged.commit(keep=True)
            assert here(replica) != before
            staged.rollback()
            assert (replica.id, here(replica)) == ("v1@exact", before)
            assert files(replica) == kit.tree(models["v1"])
        fetch(replica, "v2").commit()
        assert files(replica) == kit.tree(models["v2"])


def test_what_was_dropped_or_replaced_cannot_be_used(package: Path, models) -> None:
    with hold(package) as replica:
        staged = fetch(replica, "v2")
        staged.discard()
        staged.discard()
        with pytest.raises(UsageError, match="v2@exact was discarded"):
            staged.commit()
        second = fetch(replica, "v2")
        third = fetch(replica, "v2")
        with pytest.raises(UsageError, match="another version was fetched"):
            second.commit()
        third.commit()
        with pytest.raises(UsageError, match="committed already"):
            third.commit()
        with pytest.raises(UsageError, match="not kept"):
            third.rollback()
        assert files(replica) == kit.tree(models["v2"])


def test_an_older_version_can_be_asked_for_by_name(package: Path, models) -> None:
    with hold(package, until="v2") as replica:
        fetch(replica).commit()
        fetch(replica, "v1").commit()
        assert files(replica) == kit.tree(models["v1"])
        fetch(replica).commit()
        assert files(replica) == kit.tree(models["v2"])


def test_only_what_has_changed_is_given_and_in_forward_order(package: Path) -> None:
    with hold(package) as replica:
        replica.wait("v1@exact", timeout=20)
        before = here(replica)
        staged = fetch(replica, "v2")
        after = values(staged)
        assert sorted(staged.names, key=forward_key) == list(staged.names) == list(after)
        assert {name for name in after if after[name] != before[name]} == set(staged.changed)
        assert 0 < len(staged.changed) < len(staged.names)

        assert staged.source is not None
        some = values(staged, have=staged.source.digest)
        assert list(some) == list(staged.changed)
        groups = {layer_of(name) for name in staged.changed}
        whole = values(staged, have=staged.source.digest, group=layer_of)
        assert list(whole) == [name for name in staged.names if layer_of(name) in groups]
        assert all(array == after[name] for name, array in (some | whole).items())


def test_a_sparse_view_leads_from_the_old_to_the_new_values(package: Path) -> None:
    with hold(package) as replica:
        replica.wait("v1@exact", timeout=20)
        staged = fetch(replica, "v2")
        old = {name: array.copy() for name, array in replica.tensors.items()}
        assert staged.source is not None
        count = 0
        for found in staged.sparse(staged.source.digest):
            assert found.indices.dtype == np.int32 and (np.diff(found.indices) > 0).all()
            flat = old[found.name].reshape(-1)
            changes = flat[found.indices].view(np.uint8) != found.values.view(np.uint8)
            assert changes.reshape(len(found.indices), -1).any(axis=1).all()
            flat[found.indices] = found.values
            count += len(found.indices)
        assert {name: array.tobytes() for name, array in old.items()} == values(staged)
        assert 0 < count < sum(array.size for array in old.values()) / 20
        staged.commit()
        with pytest.raises(UsageError, match="before commit"):
            next(staged.sparse(staged.source.digest))


def test_other_weights_than_the_updates_source_are_refused(package: Path) -> None:
    with hold(package) as replica:
        first = fetch(replica, "v1")
        with pytest.raises(ConflictError, match="begins at nothing"):
            first.select(have="0" * 64)
        staged = fetch(replica, "v2")
        with pytest.raises(ConflictError, match=r"begins at v1@exact"):
            next(staged.tensors(have="0" * 64))
        with pytest.raises(ConflictError, match=r"begins at v1@exact"):
            next(staged.sparse("0" * 64))


def test_a_version_that_is_not_published_is_refused(package: Path, models) -> None:
    with hold(package, until="v2") as replica:
        fetch(replica).commit()
        with pytest.raises(UsageError, match="has no version 'v3'"):
            replica.fetch("v3")
        later.add(package, models["v3"], "v3")
        fetch(replica, "v3").commit()
        assert files(replica) == kit.tree(models["v3"])


def test_a_version_of_wrong_bytes_is_refused_before_its_commit(package: Path, models) -> None:
    with hold(package, decode=flips_a_bit("v2/")) as replica:
        first = fetch(replica, "v1")
        before = here(replica)
        with pytest.raises(IntegrityError, match="after the update to v2@exact"):
            replica.fetch("v2", timeout=20)
        assert (replica.id, here(replica), values(first)) == ("v1@exact", before, before)


def test_the_seconds_of_each_phase_are_known(package: Path) -> None:
    with hold(package) as replica:
        replica.wait("v1@exact", timeout=20)
        staged = fetch(replica, "v2")
        times = staged.timings
        assert times.fetch > 0 and times.decode > 0 and times.check > 0 and times.commit == 0
        staged.commit()
        assert staged.timings.commit == replica.commits[-1].pause > 0


def test_versions_are_held_or_taken_but_not_both(package: Path) -> None:
    with hold(package) as replica, pytest.raises(UsageError, match="fetch"):
        replica.refresh()
    with Replica(package, LivePlan()) as replica, pytest.raises(UsageError, match="by itself"):
        replica.fetch()
    with pytest.raises(UsageError, match="held"):
        LivePlan(hold=True, follow=1.0)


def test_a_commit_waits_for_pins_and_a_cancelled_replica_has_none(package: Path) -> None:
    with hold(package) as replica:
        staged = fetch(replica, "v2")
        pinned, done = threading.Event(), threading.Event()

        def pin() -> None:
            with replica.pinned():
                pinned.set()
                done.wait(10)

        thread = threading.Thread(target=pin)
        thread.start()
        assert pinned.wait(10)
        commit = threading.Thread(target=staged.commit)
        commit.start()
        commit.join(0.2)
        assert commit.is_alive() and replica.id == "v1@exact"
        done.set()
        commit.join(10)
        thread.join(10)
        assert replica.id == "v2@exact"
        other = fetch(replica, "v1")
    with pytest.raises(UsageError, match="discarded"):
        other.commit()
