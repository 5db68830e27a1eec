"""Versions: any change of a model, through the real client, is the publisher's bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from manifests import manifest_of
from packing_kit import (
    FLOATS,
    Tensors,
    check_pull,
    cost,
    model,
    moved,
    safetensors,
    weights,
)

from p2u import gc, pack, publish, pull
from p2u.errors import DiskError, IntegrityError, UsageError
from p2u.package.paths import MANIFEST_KEY


def test_an_update_from_the_parent(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first, config="{}")
    second = {**first, "layers.0.w": moved(first["layers.0.w"], 0.05)}
    two = model(tmp_path / "2", second, config="{}")
    package = tmp_path / "p"
    pack(one, package, name="m")
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    pull(package, tmp_path / "out")
    report = pack(two, package, parent=package)
    assert report.version == "v2"
    assert [state.label for state in report.states] == ["exact"]
    m = manifest_of(package)
    assert [r.version for r in m.releases] == ["v1", "v2"]
    # Old files stay as they are; the new ones lie in a folder of their own.
    for path, data in before.items():
        assert path.name == MANIFEST_KEY or path.read_bytes() == data
    new = {p.relative_to(package).parts[0] for p in package.rglob("*")} - {
        p.relative_to(package).parts[0] for p in before
    }
    assert new == {"v2"}
    assert m.releases[0].layout == m.releases[1].layout
    assert cost(package, "v1@exact", "v2@exact") < 1500
    manifest = (package / MANIFEST_KEY).stat().st_size
    assert check_pull(package, two, tmp_path / "out") < 1500 + manifest
    check_pull(package, two, tmp_path / "fresh")
    check_pull(package, one, tmp_path / "old", until="v1")


def test_nothing_changed_costs_nothing(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    pack(one, tmp_path / "p")
    before = {path: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    report = publish(one, tmp_path / "p")
    assert (report.version, report.unchanged) == ("v1", True)
    assert pack(one, tmp_path / "p", parent=tmp_path / "p").unchanged
    assert {path: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before
    report = publish(one, tmp_path / "p", force=True)
    assert (report.version, report.unchanged) == ("v2", False)
    m = manifest_of(tmp_path / "p")
    (update,) = (u for u in m.updates if u.target == "v2@exact")
    assert (update.chunks, update.bytes) == (0, 0)
    assert update.index.size < 30
    check_pull(tmp_path / "p", one, tmp_path / "out")


def test_the_progress_of_an_update_ends_at_the_end(tmp_path: Path, first: Tensors) -> None:
    """Though hardly anything of the model is coded."""
    package, seen = tmp_path / "p", {}
    publish(model(tmp_path / "1", first), package)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.001)})
    publish(two, package, progress=lambda p: seen.update({p.phase: (p.done, p.total)}))
    assert seen.keys() == {"encode", "verify", "publish"}
    assert all(done == total for done, total in seen.values())


def test_what_moves_costs_nothing(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first, config="{}", tokenizer="x" * 100_000)
    # Other names, another order, another file, and all tensors at another offset.
    second = {f"model.{name}": first[name] for name in sorted(first, reverse=True)}
    two = tmp_path / "2"
    two.mkdir()
    half = len(second) // 2
    names = list(second)
    safetensors(two / "a.safetensors", {n: second[n] for n in names[:half]})
    safetensors(two / "b.safetensors", {n: second[n] for n in names[half:]})
    (two / "renamed.json").write_text("x" * 100_000)
    pack(one, tmp_path / "p")
    pack(two, tmp_path / "p", parent=tmp_path / "p")
    m = manifest_of(tmp_path / "p")
    (update,) = (u for u in m.updates if u.target == "v2@exact")
    assert update.bytes < 800  # the headers
    pull(tmp_path / "p", tmp_path / "out", until="v1")
    check_pull(tmp_path / "p", two, tmp_path / "new")


def test_alike_tensors_are_found_without_names(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    second = {
        "x.embed": moved(first["embed"], 0.02),
        "x.w": moved(first["layers.0.w"], 0.02),
        "x.v": moved(first["layers.1.w"], 0.02),
    }
    two = model(tmp_path / "2", second)
    pack(one, tmp_path / "p")
    report = pack(two, tmp_path / "p", parent=tmp_path / "p")
    assert report.notes == ()
    size = sum(len(data) for _, _, data in second.values())
    assert cost(tmp_path / "p", "v1@exact", "v2@exact") < 0.1 * size
    check_pull(tmp_path / "p", two, tmp_path / "out")


@pytest.mark.parametrize(("old", "new", "part"), [("F32", "BF16", 0.02), ("BF16", "F32", 0.02)])
def test_another_dtype(tmp_path: Path, old: str, new: str, part: float) -> None:
    tensor = weights(old, 256, 512)
    values = np.frombuffer(tensor[2], FLOATS[old]).astype(FLOATS[new])
    one = model(tmp_path / "1", {"w": tensor})
    two = model(tmp_path / "2", {"w": (new, (256, 512), values.tobytes())})
    pack(one, tmp_path / "p")
    pack(two, tmp_path / "p", parent=tmp_path / "p")
    assert cost(tmp_path / "p", "v1@exact", "v2@exact") < part * values.nbytes
    check_pull(tmp_path / "p", two, tmp_path / "out")


def test_grown_shrunk_and_reshaped(tmp_path: Path) -> None:
    grown, flat, cut = (weights("BF16", 300, 256, seed=n) for n in range(3))
    more = weights("BF16", 10, 256, seed=9)
    one = model(tmp_path / "1", {"grown": grown, "flat": flat, "cut": cut})
    second: Tensors = {
        "grown": ("BF16", (310, 256), grown[2] + more[2]),
        "flat": ("BF16", (150, 512), flat[2]),
        "cut": ("BF16", (100, 256), cut[2][: 100 * 256 * 2]),
    }
    two = model(tmp_path / "2", second)
    pack(one, tmp_path / "p")
    pack(two, tmp_path / "p", parent=tmp_path / "p")
    assert cost(tmp_path / "p", "v1@exact", "v2@exact") < 0.9 * len(more[2]) + 600
    check_pull(tmp_path / "p", two, tmp_path / "out")


def test_a_base_for_newcomers(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    two = model(
        tmp_path / "2", {n: moved(t, 0.9) if t[0] in FLOATS else t for n, t in first.items()}
    )
    pack(one, tmp_path / "p")
    report = pack(two, tmp_path / "p", parent=tmp_path / "p", also_base=True, version="next")
    assert [s.label for s in report.states] == ["base", "8bit", "exact"]
    check_pull(tmp_path / "p", two, tmp_path / "new")
    pull(tmp_path / "p", tmp_path / "old", until="v1")
    check_pull(tmp_path / "p", two, tmp_path / "old")
    result = pull(tmp_path / "p", tmp_path / "base", until="base")
    assert result.state == "base"


def test_a_parent_that_only_others_have(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "given model", first)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)})
    report = pack(two, tmp_path / "p", parent=one)
    m = manifest_of(tmp_path / "p")
    assert [(r.version, r.foreign) for r in m.releases] == [("given-model", True), ("v1", False)]
    assert [s.bytes for s in m.states] == [None, None]
    assert any("given-model@given" in note for note in report.notes)
    # The same parent again is known by its files; the same version only gets what it lacks.
    three = model(tmp_path / "3", {**first, "embed": moved(first["embed"], 0.2)})
    report = pack(three, tmp_path / "p", parent=one, also_base=True)
    assert [r.version for r in report.manifest.releases] == ["given-model", "v1", "v2"]
    check_pull(tmp_path / "p", three, tmp_path / "new")
    other = model(tmp_path / "other", {**first, "embed": moved(first["embed"], 0.3)})
    report = pack(three, tmp_path / "p", parent=other)
    assert [r.version for r in report.manifest.releases] == ["other", "given-model", "v1", "v2"]
    assert report.version == "v2"


def test_other_packages_as_parents(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)})
    pack(one, tmp_path / "p")
    pack(two, tmp_path / "q", parent=f"{tmp_path / 'p'}@exact")
    m = manifest_of(tmp_path / "q")
    assert m.updates[0].source == "v1@exact"
    assert m.releases[0].foreign
    assert m.releases[0].states[0].digest == manifest_of(tmp_path / "p").states[-1].digest
    assert m.releases[1].version == "v2"
    with pytest.raises(UsageError, match="no state"):
        pack(two, tmp_path / "q", parent=f"{tmp_path / 'p'}@v7")
    with pytest.raises(DiskError, match="no such"):
        pack(two, tmp_path / "q", parent=tmp_path / "r")


def test_publishing_versions(tmp_path: Path, first: Tensors) -> None:
    package, here = tmp_path / "p", tmp_path / "here"
    tensors, folders = dict(first), []
    for n in range(9):
        tensors["embed"] = moved(tensors["embed"], 0.05, seed=n)
        folders.append(model(tmp_path / f"{n}", tensors, config=f"{n}"))
        parent = folders[-2] if n % 2 else None
        report = publish(folders[-1], package, anchor_every=4, fold=0.9, parent=parent)
        assert report.version == f"v{n + 1}"
        check_pull(package, folders[-1], here)
    m = manifest_of(package)
    based = [u.target for u in m.updates if u.source is None]
    assert based == ["v1@base", "v5@base", "v9@base"]
    folded = [(u.source, u.target) for u in m.updates if u.source and m.crosses(u)]
    assert ("v1@exact", "v9@exact") in folded
    assert ("v1@exact", "v3@exact") in folded
    assert ("v2@exact", "v4@exact") not in folded
    for n, folder in enumerate(folders):
        check_pull(package, folder, tmp_path / f"fresh{n}", until=f"v{n + 1}")


def test_gc(tmp_path: Path, first: Tensors) -> None:
    package = tmp_path / "p"
    tensors, folders = dict(first), []
    for n in range(7):
        tensors["embed"] = moved(tensors["embed"], 0.05, seed=n)
        folders.append(model(tmp_path / f"{n}", tensors))
        publish(folders[-1], package, anchor_every=3)
    (package / "README.txt").write_text("mine")
    before = (package / MANIFEST_KEY).read_bytes()
    report = gc(package, keep=2, dry_run=True)
    assert (package / MANIFEST_KEY).read_bytes() == before
    # The way to v6 from nothing is over v4, which has a base, and v5.
    assert report.kept == ("v1", "v4", "v5", "v6", "v7")
    assert report.dropped == ("v2", "v3")
    report = gc(package, keep=2, anchors=0, grace=3600)
    assert report.kept == ("v4", "v5", "v6", "v7")
    kept = [int(v[1:]) for v in report.kept]
    old = package / "v2" / "from-v1-exact.index"
    assert old.exists()
    # Whoever reads the old manifest still can; the files go when their time has come.
    unused = package / ".p2u-unused.json"
    unused.write_text(json.dumps(dict.fromkeys(json.loads(unused.read_text()), 0)))
    gc(package, keep=2, anchors=0)
    assert not old.exists()
    assert not unused.exists()
    listed = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    m = manifest_of(package)
    wanted = {MANIFEST_KEY, "README.txt", *(r.layout.key for r in m.releases)}
    for update in m.updates:
        wanted |= {update.index.key, *(blob.key for blob in update.blobs)}
    assert listed == wanted
    for n in kept:
        check_pull(package, folders[n - 1], tmp_path / f"fresh{n}", until=f"v{n}")
    tensors["embed"] = moved(tensors["embed"], 0.05, seed=99)
    last = model(tmp_path / "last", tensors)
    assert publish(last, package).version == "v8"
    check_pull(package, last, tmp_path / "end")


def test_a_damaged_parent_is_refused(tmp_path: Path, first: Tensors) -> None:
    one = model(tmp_path / "1", first)
    package = tmp_path / "p"
    pack(one, package)
    blob = package / "exact-000.bin"
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    two = model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)})
    with pytest.raises(IntegrityError, match="damaged"):
        publish(two, package)
    # But not needed where the files are at hand.
    publish(two, package, parent=one)
