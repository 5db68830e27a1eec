"""Pulling from version to version."""

from __future__ import annotations

import json

import pytest
from kit import QUICK, tree
from pulling import have, leftovers, only_model, pull_with
from store_kit import FlakyStore
from versions import (
    add_release,
    connect,
)

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import DiskError, StoreError, UsageError
from p2u.stores import LocalStore


@pytest.mark.parametrize("in_place", [False, True])
def test_a_new_version_takes_its_update(versions, tmp_path, in_place):
    dst = have(versions, "v1", tmp_path / "dst")
    large = dst / "model-00001-of-00002.safetensors"
    before = large.stat().st_ino
    seen = []
    result = pull(
        versions.package, dst, until="v2", in_place=in_place, on_state=seen.append, jobs=2
    )
    only_model(versions, "v2", dst)
    update = versions.update("v1@exact", "v2@exact")
    manifest = (versions.package / "p2u.json").stat().st_size
    layout = versions.manifest.releases[0].layout.size
    # One byte of each blob was asked for before anything was touched.
    expected = manifest + layout + update.index.size + update.bytes + len(update.blobs)
    assert result.fetched == expected
    assert update.bytes < sum(len(d) for d in tree(dst).values()) / 4
    assert (result.state, seen) == ("v2@exact", ["v2@exact"])
    assert (large.stat().st_ino == before) == in_place
    assert leftovers(tmp_path) == []
    assert json.loads((dst / ".p2u-state.json").read_text())["state"] == "v2@exact"
    assert verify(dst).states == ("exact",)
    # Another run finds nothing to do, and knows it without reading the files.
    assert pull(versions.package, dst, until="v2").requests == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_tensors_and_files_that_move(versions, tmp_path, in_place):
    dst = have(versions, "v1", tmp_path / "dst")
    seen = []
    result = pull(versions.package, dst, in_place=in_place, on_state=seen.append)
    only_model(versions, "v3", dst)
    assert seen == ["v2@exact", "exact"]
    assert result.state == "exact"
    assert not (dst / "1_Pooling").exists()
    assert not (dst / "empty.txt").exists()
    assert leftovers(tmp_path) == []
    assert pull(versions.package, dst).requests == 1


def test_what_moves_is_not_fetched(versions, tmp_path):
    update = versions.update("v2@exact", "v3@exact")
    total = sum(len(data) for data in tree(versions.models["v3"]).values())
    # 128 x 200 of bfloat16, 84 rows of 64 of float32, and some bytes around.
    assert update.bytes < 51200 + 4 * 64 * 84 + 4096 < total / 3


def test_from_nothing_the_cheapest_way_is_taken(versions, tmp_path):
    seen = []
    result = pull(versions.package, tmp_path / "dst", on_state=seen.append)
    only_model(versions, "v3", tmp_path / "dst")
    costs = {state.id: state.bytes for state in versions.manifest.states}
    manifest = (versions.package / "p2u.json").stat().st_size
    probed = sum(len(u.blobs) for u in versions.manifest.updates)
    assert 0 <= result.fetched - manifest - costs["v3@exact"] <= probed
    assert seen[-1] == "exact"
    assert len(seen) == 4


def test_states_by_their_names(versions, tmp_path):
    dst = tmp_path / "dst"
    for until, state in (
        ("v2@base", "v2@base"),
        ("v2@8bit", "v2@8bit"),
        ("v2@base", "v2@8bit"),  # a better one of the same version stays
        ("v1@base", "v1@base"),  # but not one of a later version
        ("v1", "v1@exact"),
        ("exact", "v3@exact"),
        ("v2", "v2@exact"),
    ):
        result = pull(versions.package, dst, until=until)
        assert versions.state(dst) == state
        assert result.state == ("exact" if state == "v3@exact" else state)
    with pytest.raises(UsageError, match=r"v1@base, .*, exact"):
        pull(versions.package, dst, until="2bit")
    for label in ("base", "8bit"):  # v3 has none: never those of an older version
        pull(versions.package, tmp_path / label, until=label)
        assert versions.state(tmp_path / label) == "v3@exact"


@pytest.mark.parametrize(("source", "target"), [("v1@exact", "v2@exact"), ("v2@exact", "v3@exact")])
def test_an_interrupted_update_goes_on(versions, tmp_path, source, target):
    dst = have(versions, source, tmp_path / "dst")
    update = versions.update(source, target)
    count = update.chunks
    key = update.blobs[0].key
    calls = []

    def fails(found: str, start: int, n: int) -> bool:
        calls.append(found == key)
        return sum(calls) > count // 2

    store = FlakyStore(LocalStore(versions.package), fails)
    with pytest.raises(StoreError, match="on purpose"):
        pull_with(store, dst, until=target, retry=QUICK, jobs=1)
    assert versions.state(dst) == source
    plan = pull_with(versions.package, dst, until=target, dry_run=True).plan
    assert 0 < plan.missing < update.index.size + update.bytes * 0.8
    result = pull_with(versions.package, dst, until=target)
    assert result.fetched < update.bytes * 0.8 + 40_000
    assert versions.state(dst) == target
    assert leftovers(tmp_path) == []


def test_room_on_the_disk(versions, tmp_path):
    dst = have(versions, "v1", tmp_path / "dst")
    plan = pull(versions.package, dst, dry_run=True).plan
    sizes = {v: sum(len(d) for d in tree(m).values()) for v, m in versions.models.items()}
    assert sizes["v3"] < plan.disk < sizes["v2"] + sizes["v3"] + (3 << 20)
    with pytest.raises(DiskError, match="free space"):
        pull_with(versions.package, dst, free_bytes=lambda path: plan.disk - 1)
    assert versions.state(dst) == "v1@exact"


def test_a_version_that_is_the_one_before(versions, tmp_path):
    """A folder is all states that have its digest: an update may begin at any of them."""
    models, package = versions.models, tmp_path / "package"
    package.mkdir()
    add_release(package, "v1", models["v1"], fresh=True)
    add_release(package, "v2", models["v1"], fresh=False)
    connect(package, "v1@exact", "v2@exact", models["v1"], models["v1"])
    add_release(package, "v3", models["v2"], fresh=False)
    connect(package, "v1@exact", "v3@exact", models["v1"], models["v2"])
    dst = tmp_path / "dst"
    pull(package, dst, until="v1")
    assert pull(package, dst, until="v2").requests == 1
    plan = pull(package, dst, dry_run=True).plan
    assert (plan.here, plan.begin) == ("v2@exact", "v1@exact")
    pull(package, dst)
    only_model(versions, "v2", dst)
    other = tmp_path / "other"
    assert pull(package, other, origin=models["v1"]).fetched < versions.manifest.states[0].bytes
    assert tree(other) == tree(dst)
