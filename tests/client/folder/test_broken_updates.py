"""Updates between versions that are missing, damaged, hostile, or replaced meanwhile."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import kit
import pytest
from kit import QUICK, tree
from manifests import manifest_of, write_manifest
from pulling import flip, have, leftovers, only_model
from store_kit import FlakyStore
from versions import (
    RENAMED,
    Versions,
    connect,
    read_model,
)

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import P2UError, StoreError
from p2u.package.index import encode_index, parse_index
from p2u.packing.api import pack
from p2u.stores import LocalStore


@pytest.fixture
def package(versions: Versions, tmp_path: Path) -> Path:
    """A copy of the package, to be damaged."""
    return Path(shutil.copytree(versions.package, tmp_path / "copy"))


def blob(package: Path, source: str | None, target: str) -> Path:
    updates = manifest_of(package).updates
    update = next(u for u in updates if (u.source, u.target) == (source, target))
    return package / update.blobs[0].key


def damage(package: Path, how: str, source: str | None, target: str) -> None:
    path = blob(package, source, target)
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "index":
        updates = manifest_of(package).updates
        update = next(u for u in updates if (u.source, u.target) == (source, target))
        flip(package / update.index.key, 20)
    else:
        flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize("how", ["missing", "short", "index", "bit"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_broken_link_is_gone_around(versions, package, tmp_path, how, opened):
    damage(package, how, "v1@exact", "v2@exact")
    dst = have(versions, "v1", tmp_path / "dst")
    source = LocalStore(package) if opened else package
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


def rewritten(package: Path, change) -> None:
    """The package with its last update's index changed."""
    manifest = manifest_of(package)
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
    manifest = manifest_of(made)
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
        assert data[5] == 1  # there is a map
        swapped = [n for n in range(6, 20) if 0 < data[n] < 10]
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
    manifest = manifest_of(package)
    kept = [u for u in manifest.updates if u.source != "v1@exact"]
    connect(package, "v1@exact", "v3@exact", versions.models["v1"], versions.models["v3"], RENAMED)
    folded = manifest_of(package).updates[-1]
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
