"""Pulling from version to version."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import kit
import pytest
from kit import QUICK, tree
from pulling import flip, leftovers, pull_with
from store_kit import FlakyStore
from versions import (
    RENAMED,
    Versions,
    add_foreign,
    add_release,
    connect,
    read_manifest,
    read_model,
    write_manifest,
)

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import DiskError, NotFoundError, P2UError, StoreError, UsageError
from p2u.package.index import encode_index, parse_index
from p2u.packing.api import pack
from p2u.stores import LocalStore


@pytest.fixture
def package(versions: Versions, tmp_path: Path) -> Path:
    """A copy of the package, to be damaged."""
    return Path(shutil.copytree(versions.package, tmp_path / "copy"))


def have(versions: Versions, state: str, folder: Path) -> Path:
    """A folder with a state, and a file that is not the package's."""
    pull(versions.package, folder, until=state)
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    return folder


def blob(package: Path, source: str | None, target: str) -> Path:
    updates = read_manifest(package).updates
    update = next(u for u in updates if (u.source, u.target) == (source, target))
    return package / update.blobs[0].key


def only_model(versions: Versions, version: str, folder: Path) -> None:
    """The folder has exactly the files of a version, and what was not the package's."""
    found = tree(folder)
    assert found.pop("mine/notes.txt", b"mine") == b"mine"
    assert found == tree(versions.models[version])


def unchanging(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Of all files: what a reader does not change."""
    stats = {path: path.stat() for path in folder.rglob("*")}
    return {p: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_nlink) for p, s in stats.items()}


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
        pull(versions.package, dst, until="base")  # v3 has none


def test_a_folder_without_a_state_file(versions, tmp_path):
    dst = Path(shutil.copytree(versions.models["v1"], tmp_path / "dst"))
    (dst / "mine.txt").write_text("mine")
    plan = pull(versions.package, dst, dry_run=True).plan
    assert (plan.here, plan.begin) == ("v1@exact", "v1@exact")
    assert [step.state for step in plan.steps] == ["v2@exact", "exact"]
    assert not (dst / ".p2u-state.json").exists()
    pull(versions.package, dst)
    assert (dst / "mine.txt").read_text() == "mine"
    (dst / "mine.txt").unlink()
    only_model(versions, "v3", dst)


def test_a_folder_pulled_from_another_package(versions, tmp_path):
    other = tmp_path / "other"
    pack(versions.models["v1"], other, name="somebody's copy")
    dst = tmp_path / "dst"
    pull(other, dst)
    result = pull(versions.package, dst, until="v2")
    assert result.fetched < versions.update("v1@exact", "v2@exact").bytes + 30_000
    only_model(versions, "v2", dst)
    assert json.loads((dst / ".p2u-state.json").read_text())["name"] == "model"
    # A state of another model that this package does not know is still refused.
    only = tmp_path / "only-v3"
    pack(versions.models["v3"], only, name="third")
    with pytest.raises(UsageError, match="holds the model 'model', not 'third'"):
        pull(only, dst)


@pytest.mark.parametrize("pulled", [False, True])
@pytest.mark.parametrize("until", ["v2", "exact"])
def test_a_parent_elsewhere(versions, tmp_path, pulled, until):
    parent = tmp_path / "parent"
    if pulled:
        pull(versions.package, parent, until="v1")
    else:
        shutil.copytree(versions.models["v1"], parent)
    before = unchanging(parent)
    dst = tmp_path / "dst"
    plan = pull(versions.package, dst, until=until, origin=parent, dry_run=True).plan
    assert (plan.here, plan.begin) == (None, "v1@exact")
    assert not dst.exists()
    result = pull(versions.package, dst, until=until, origin=parent, in_place=True)
    only_model(versions, "v2" if until == "v2" else "v3", dst)
    assert result.fetched < versions.manifest.states[1].bytes
    assert unchanging(parent) == before
    # Nothing of the new folder is another name of the parent's files.
    assert not {ino for ino, *_ in before.values()} & {p.stat().st_ino for p in dst.rglob("*")}


def test_a_parent_elsewhere_replaces_what_is_here(versions, tmp_path):
    dst = have(versions, "v1@base", tmp_path / "dst")
    result = pull(versions.package, dst, until="v2", origin=versions.models["v1"])
    only_model(versions, "v2", dst)
    assert result.fetched < versions.manifest.states[1].bytes


@pytest.mark.parametrize("here", [None, "v1@base"])
def test_what_is_wanted_is_elsewhere(versions, tmp_path, here):
    dst = tmp_path / "dst"
    if here:
        have(versions, here, dst)
    origin = versions.models["v3"]
    plan = pull(versions.package, dst, origin=origin, dry_run=True).plan
    assert (plan.begin, plan.steps) == ("v3@exact", ())
    assert plan.disk > sum(len(data) for data in tree(origin).values())
    seen = []
    result = pull(versions.package, dst, origin=origin, on_state=seen.append)
    only_model(versions, "v3", dst)
    assert (result.requests, result.state, seen) == (1, "exact", ["exact"])
    assert leftovers(tmp_path) == []
    assert verify(dst).states == ("exact",)


def test_a_parent_that_is_none(versions, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        pull(versions.package, tmp_path / "dst", origin=tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"no state of the package .*v1@base"):
        pull(versions.package, tmp_path / "dst", origin=tmp_path / "other")
    assert not (tmp_path / "dst").exists()


@pytest.fixture(scope="module")
def adopted(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A package that knows somebody else's single file; that file; the model."""
    folder = tmp_path_factory.mktemp("adopted")
    model, other, package = folder / "model", folder / "other", folder / "package"
    model.mkdir()
    other.mkdir()
    weights = [(f"w{n}", "F32", (64, 64), kit.floats(4096, "F32", n)) for n in range(4)]
    kit.write_safetensors(model / "model.safetensors", weights)
    (model / "config.json").write_text("{}")
    theirs = [*weights[:3], ("w3", "F16", (64, 64), kit.floats(4096, "F16", 9))]
    kit.write_safetensors(other / "theirs.safetensors", theirs)
    package.mkdir()
    add_release(package, "v1", model, fresh=True)
    add_foreign(package, "theirs", other)
    connect(package, "theirs@exact", "v1@exact", other, model)
    return package, other / "theirs.safetensors", model


def test_somebody_elses_file_under_any_name(adopted, tmp_path):
    package, theirs, model = adopted
    file = Path(shutil.copy(theirs, tmp_path / "renamed.bin"))
    dst = tmp_path / "dst"
    for origin in (file, tmp_path):
        result = pull(package, dst, origin=origin)
        assert tree(dst) == tree(model)
        assert result.fetched < 64 * 64 * 4 * 2
        assert file.read_bytes() == theirs.read_bytes()
        shutil.rmtree(dst)
    with pytest.raises(UsageError, match="no state 'theirs'"):
        pull(package, dst, until="theirs")


def test_somebody_elses_file_in_the_target_stays(adopted, tmp_path):
    package, theirs, model = adopted
    dst = tmp_path / "dst"
    dst.mkdir()
    shutil.copy(theirs, dst / "renamed.bin")
    plan = pull(package, dst, dry_run=True).plan
    assert (plan.here, plan.begin) == ("theirs@exact", "theirs@exact")
    assert pull(package, dst).fetched < 64 * 64 * 4 * 2
    found = tree(dst)
    assert found.pop("renamed.bin") == theirs.read_bytes()
    assert found == tree(model)


# --- links that are missing or broken


def damage(package: Path, how: str, source: str | None, target: str) -> None:
    path = blob(package, source, target)
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "index":
        updates = read_manifest(package).updates
        update = next(u for u in updates if (u.source, u.target) == (source, target))
        flip(package / update.index.key, 20)
    else:
        flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize("how", ["missing", "short", "index", "bit"])
@pytest.mark.parametrize("lent", [False, True])
def test_a_broken_link_is_gone_around(versions, package, tmp_path, how, lent):
    damage(package, how, "v1@exact", "v2@exact")
    dst = have(versions, "v1", tmp_path / "dst")
    source = LocalStore(package) if lent else package
    seen = []
    result = pull(source, dst, until="v2", on_state=seen.append, retry=QUICK)
    only_model(versions, "v2", dst)
    assert seen == ["v2@base", "v2@8bit", "v2@exact"]
    (warning,) = result.warnings
    assert "v1@exact -> v2@exact cannot be used" in warning
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("how", ["missing", "short", "index"])
def test_nothing_is_touched_where_the_way_has_a_hole(versions, package, tmp_path, how):
    dst = have(versions, "v1", tmp_path / "dst")
    damage(package, how, "v2@exact", "v3@exact")
    before = tree(dst)
    with pytest.raises(P2UError, match=r"v2\.exact-v3\.exact"):
        pull(package, dst, retry=QUICK)
    # Not even the first link of the way, which is sound, was taken.
    assert tree(dst) == before
    assert versions.state(dst) == "v1@exact"


def test_a_link_that_breaks_in_the_middle(versions, package, tmp_path):
    """It looks sound before it is fetched; the folder stays a state, and the rest goes around."""
    before, after = versions.models["v1"], versions.models["v3"]
    connect(package, "v1@exact", "v3@exact", before, after, RENAMED)
    dst = have(versions, "v1", tmp_path / "dst")
    chosen = pull(package, dst, dry_run=True).plan.steps
    source = "v1@exact" if len(chosen) == 1 else "v2@exact"
    damage(package, "bit", source, "v3@exact")
    seen = []
    result = pull(package, dst, retry=QUICK, on_state=seen.append)
    only_model(versions, "v3", dst)
    assert seen[-1] == "exact"
    assert f"{source} -> v3@exact cannot be used" in result.warnings[0]
    assert len(result.warnings) == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_a_broken_update_without_another_way(versions, package, tmp_path, in_place):
    damage(package, "bit", "v2@exact", "v3@exact")
    dst = have(versions, "v1", tmp_path / "dst")
    with pytest.raises(P2UError, match=r"v2\.exact-v3\.exact"):
        pull(package, dst, retry=QUICK, in_place=in_place)
    assert versions.state(dst) == "v2@exact"
    shutil.copy(
        blob(versions.package, "v2@exact", "v3@exact"), blob(package, "v2@exact", "v3@exact")
    )
    pull(package, dst)
    only_model(versions, "v3", dst)


def test_in_place_and_broken_everything_is_fetched_anew(versions, package, tmp_path):
    damage(package, "bit", "v1@exact", "v2@exact")
    dst = have(versions, "v1", tmp_path / "dst")
    result = pull(package, dst, until="v2", in_place=True, retry=QUICK)
    only_model(versions, "v2", dst)
    assert len(result.warnings) == 1
    assert leftovers(tmp_path) == []


def test_a_dry_run_says_what_is_broken(versions, package, tmp_path):
    damage(package, "missing", "v1@exact", "v2@exact")
    dst = have(versions, "v1", tmp_path / "dst")
    plan = pull(package, dst, until="v2", dry_run=True, retry=QUICK).plan
    assert plan.begin is None
    assert [step.state for step in plan.steps] == ["v2@base", "v2@8bit", "v2@exact"]
    assert len(plan.warnings) == 1
    assert versions.state(dst) == "v1@exact"


def test_a_link_that_fails_for_now_is_not_broken(versions, tmp_path):
    dst = have(versions, "v1", tmp_path / "dst")
    key = versions.update("v1@exact", "v2@exact").blobs[0].key
    store = FlakyStore(LocalStore(versions.package), lambda found, start, n: found == key)
    with pytest.raises(StoreError, match="on purpose"):
        pull(store, dst, until="v2", retry=QUICK)
    assert versions.state(dst) == "v1@exact"


# --- interrupted


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


# --- hostile packages


def rewritten(package: Path, change) -> None:
    """The package with its last update's index changed."""
    manifest = read_manifest(package)
    last = manifest.updates[-1]
    data = change(bytearray((package / last.index.key).read_bytes()))
    (package / last.index.key).write_bytes(data)
    held = replace(last.index, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    write_manifest(
        package, replace(manifest, updates=(*manifest.updates[:-1], replace(last, index=held)))
    )


def test_chunks_that_need_what_is_not_there(versions, tmp_path):
    """A refinement between two releases, or from nothing, is refused, not guessed."""
    package = tmp_path / "package"
    model = tmp_path / "model"
    model.mkdir()
    weights = [("w", "F32", (64, 64), kit.floats(4096, "F32", 1))]
    kit.write_safetensors(model / "model.safetensors", weights)
    made = tmp_path / "made"
    pack(model, made, levels=("base", "exact"), name="model")
    manifest = read_manifest(made)
    base, exact = manifest.updates
    # The refinement's chunks stand for the base's, which begins at nothing.
    lie = replace(base, blobs=exact.blobs, bytes=exact.bytes, chunks=exact.chunks)
    shutil.copytree(made, package)
    target = read_model(package, manifest.latest)
    held = parse_index((made / base.index.key).read_bytes(), base, target).chunks
    parts = parse_index((made / exact.index.key).read_bytes(), exact, target).chunks
    pieces = tuple(c for c in held if c.pieces)
    rows = tuple(c for c in parts if c.segments)
    data = b"".join(
        (made / of.blobs[c.blob].key).read_bytes()[c.start : c.start + c.length]
        for of, found in ((base, pieces), (exact, rows))
        for c in found
    )
    (package / exact.blobs[0].key).write_bytes(data)
    index = encode_index([*pieces, *rows])
    (package / base.index.key).write_bytes(index)
    sha = hashlib.sha256(index).hexdigest()
    lie = replace(
        base,
        index=replace(base.index, size=len(index), sha256=sha),
        blobs=(replace(exact.blobs[0], size=len(data)),),
        bytes=len(data),
        chunks=len(pieces) + len(rows),
        target="v1@exact",
    )
    release = replace(
        manifest.latest,
        states=manifest.latest.states[1:],
        files=tuple(replace(f, sha256=f.sha256[-1:]) for f in manifest.latest.files),
    )
    write_manifest(package, replace(manifest, releases=(release,), updates=(lie,)))
    with pytest.raises(P2UError, match="of kind 2, which needs previous bytes"):
        pull(package, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_a_map_that_lies(versions, package, tmp_path):
    """Copies from the wrong tensor are found by the digest; the folder stays what it was."""

    def change(data: bytearray) -> bytes:
        assert data[4] == 2
        swapped = [n for n in range(5, 20) if 0 < data[n] < 10]
        first, second = swapped[0], swapped[1]
        data[first], data[second] = data[second], data[first]
        return bytes(data)

    rewritten(package, change)
    dst = have(versions, "v2", tmp_path / "dst")
    with pytest.raises(P2UError):
        pull(package, dst, retry=QUICK)
    assert versions.state(dst) == "v2@exact"


def test_verify_and_every_update(versions, package):
    report = verify(versions.package, decode=True)
    assert report.states == (
        *("v1@base", "v1@8bit", "v1@exact", "v2@base", "v2@8bit", "v2@exact", "exact"),
    )
    assert report.decoded
    assert report.chunks == sum(u.chunks for u in versions.manifest.updates)
    damage(package, "bit", "v1@exact", "v2@exact")
    with pytest.raises(P2UError, match=r"v1\.exact-v2\.exact"):
        verify(package)


@pytest.mark.parametrize("late", [False, True])
def test_a_package_that_was_published_again(versions, package, tmp_path, late):
    """The update that the old manifest names is gone; the new manifest leads on."""
    dst = have(versions, "v1", tmp_path / "dst")
    manifest = read_manifest(package)
    kept = [u for u in manifest.updates if u.source != "v1@exact"]
    connect(package, "v1@exact", "v3@exact", versions.models["v1"], versions.models["v3"], RENAMED)
    folded = read_manifest(package).updates[-1]
    (package / "p2u.json").write_bytes(manifest.to_bytes())

    class Republished(LocalStore):
        """Publishes when the update is asked for: before anything is fetched, or meanwhile."""

        def stream(self, key: str, start: int, length: int):
            path = package / versions.update("v1@exact", "v2@exact").blobs[0].key
            if key == path.name and path.exists() and (length > 1) == late:
                path.unlink()
                write_manifest(package, replace(manifest, updates=(*kept, folded)))
            return super().stream(key, start, length)

    result = pull(Republished(package), dst, retry=QUICK)
    only_model(versions, "v3", dst)
    assert result.warnings == ()
    assert result.fetched < folded.bytes + folded.index.size + 60_000


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
