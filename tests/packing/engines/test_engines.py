"""A package is the same with every engine, even if its workers share no memory with the driver."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_kit
import pytest
from kit import tree
from packing_kit import check_pull, content

import p2u
from p2u.codec import core
from p2u.errors import DiskError, IntegrityError, UsageError
from p2u.formats import scan_model
from p2u.package.keys import keys
from p2u.package.manifest_parse import parse_manifest
from p2u.packing.chunking.cut import make_layout
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines import choice, places
from p2u.packing.engines.file_hashes import FileHashes
from p2u.packing.engines.places import FolderPlace, StorePlace
from p2u.packing.report import PackProgress
from p2u.replication.unused import UNUSED
from p2u.stores import open_writable


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model at three times."""
    root = tmp_path_factory.mktemp("models")
    return [engine_kit.shards(root / f"m{n}", n) for n in range(3)]


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choice.ENGINES, "apart", "engine_kit:open_apart")


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "small blobs": {"blob_size": 10_000, "levels": ("base", "6bit", "9bit", "exact")},
    "budget": {"base_ratio": 0.3, "keep": ["embed*"]},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_same_package(models: list[Path], tmp_path: Path, recipe: dict[str, Any]) -> None:
    for engine in ("local", "apart"):
        p2u.pack(models[0], tmp_path / engine, name="m", engine=engine, **recipe)
    assert tree(tmp_path / "apart") == tree(tmp_path / "local")
    check_pull(tmp_path / "apart", models[0], tmp_path / "pulled")


def test_the_same_versions(models: list[Path], tmp_path: Path) -> None:
    for engine in ("local", "apart"):
        for number, model in enumerate(models):
            anchor = number != 1
            p2u.publish(model, tmp_path / engine, engine=engine, name="m", anchor=anchor, fold=0.9)
        again = p2u.publish(models[2], tmp_path / engine, engine=engine)
        assert again.unchanged
    assert tree(tmp_path / "apart") == tree(tmp_path / "local")
    check_pull(tmp_path / "apart", models[2], tmp_path / "pulled")


def objects(url: str) -> dict[str, bytes]:
    with open_writable(url) as store:
        found = [one.key for one in store.list_objects() if one.key != UNUSED]
        return {key: store.read(key, limit=1 << 24) for key in found}


def test_from_a_bucket_to_a_bucket(
    models: list[Path], tmp_path: Path, place: Callable[[str], str]
) -> None:
    """Ranges of the model are read from a store, and blobs are written to it by workers."""
    packages = [place("s3"), place("s3")]
    for number, model in enumerate(models[:2]):
        source = place("s3")
        with open_writable(source) as store:
            for key, data in content(model).items():
                store.put(key, data)
        for url, engine in zip(packages, ("local", "apart"), strict=True):
            given = models[0] if number else None
            p2u.publish(source, url, engine=engine, name="m", parent=given, anchor=True)
    assert objects(packages[0]) == objects(packages[1])
    manifest = parse_manifest(objects(packages[1])["p2u.json"])
    assert keys(manifest) | {"p2u.json"} == objects(packages[1]).keys()
    check_pull(packages[1], models[1], tmp_path / "pulled")  # type: ignore[arg-type]


def test_a_key_that_is_taken(models: list[Path], place: Callable[[str], str]) -> None:
    """Somebody else's object stays, and the manifest has the key that ours got."""
    url = place("s3")
    with open_writable(url) as store:
        store.put("base-000.bin", b"theirs")
    p2u.publish(models[0], url, engine="apart")
    found = objects(url)
    assert found["base-000.bin"] == b"theirs"
    assert "base-000.bin" not in keys(parse_manifest(found["p2u.json"]))
    p2u.verify(url)


def test_a_model_that_changes_in_a_bucket(
    models: list[Path], tmp_path: Path, place: Callable[[str], str]
) -> None:
    source = place("s3")
    with open_writable(source) as store:
        for key, data in content(models[0]).items():
            store.put(key, data)

        def change(progress: PackProgress) -> None:
            if progress.phase == "encode":
                store.put("config.json", b'{"moves": 9}')

        with pytest.raises(IntegrityError, match="written to meanwhile"):
            p2u.pack(source, tmp_path / "p", engine="apart", progress=change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_places(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "WINDOW", 7)
    root = tmp_path / "v1"
    root.mkdir()
    place = FolderPlace(root) if kind == "folder" else StorePlace(str(tmp_path), "v1/")
    assert place.write("a.bin", [b"0123", memoryview(b"456789")]) == "a.bin"
    assert place.write("a.bin", [b"0123456789"]) == "a.bin"  # again, after a crash
    for start, size in ((0, 10), (3, 5), (9, 1), (6, 2)):
        out = bytearray(size)
        place.read_into("a.bin", 10, start, memoryview(out))
        assert out == b"0123456789"[start : start + size]
    with pytest.raises(IntegrityError, match="shorter than what was written"):
        place.read_into("a.bin", 10, 6, memoryview(bytearray(5)))
    (root / "b.bin.0.part").write_bytes(b"killed")
    place.tidy()
    place.remove(["a.bin"])
    assert kind == "store" or list(root.iterdir()) == []


def test_a_folder_that_a_worker_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"this worker.*all machines share"):
        FolderPlace(tmp_path / "elsewhere").write("a.bin", [b"1"])


def test_engines_are_named(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no engine 'spark'\. Choose local or ray"):
        p2u.pack(models[0], tmp_path / "p", engine="spark")
    for more in ({"workers": 2}, {"ray_address": "auto"}):
        with pytest.raises(UsageError, match="--engine ray"):
            p2u.pack(models[0], tmp_path / "p", **more)
    with pytest.raises(UsageError, match="workers is 0"):
        p2u.publish(models[0], tmp_path / "p", engine="ray", workers=0)


@pytest.mark.parametrize("engine", ["local", "apart"])
def test_what_does_not_decode_is_not_published(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    real = core.encode

    def faulty(dtype: str, segments: Any, *rest: Any, **named: Any) -> Any:
        """Encodes other weights than those that are there."""
        others = [replace(one, mem=bytes(one.mem[:-1]) + b"\x01") for one in segments]
        return real(dtype, others, *rest, **named)

    monkeypatch.setattr(core, "encode", faulty)
    with pytest.raises(IntegrityError, match="does not decode to the original"):
        p2u.pack(models[0], tmp_path / "p", engine=engine, jobs=1)
    assert list(tmp_path.iterdir()) == []


def test_workers_may_be_in_another_folder(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is relative to the driver's folder leads to the same files for them."""
    monkeypatch.chdir(models[0].parent)
    scanned = scan_model(models[0].name)
    sent = pickle.dumps(FileHashes(StoredModel(scanned, make_layout(scanned, lambda name: False))))
    monkeypatch.chdir(tmp_path)
    expected = hashlib.sha256((models[0] / "config.json").read_bytes()).hexdigest()
    assert pickle.loads(sent).start().run(0) == expected


def test_a_store_whose_objects_appear_with_the_manifest(
    models: list[Path], tmp_path: Path, place: Callable[[str], str]
) -> None:
    """Blobs wait in a folder, because another process's puts would never be seen."""
    url = place("hf")
    p2u.publish(models[0], url, engine="apart", name="m")
    p2u.publish(models[0], tmp_path / "local", name="m")
    assert objects(url) == tree(tmp_path / "local")
