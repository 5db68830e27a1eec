"""Damaged and missing files: only what they need is fetched."""

from __future__ import annotations

import contextlib

import pytest
from kit import QUICK, tree
from pulling import change_unseen, flip, leftovers, pull_with
from store_kit import CountingStore, FlakyStore
from versions import Versions

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import IntegrityError, StoreError, UsageError
from p2u.stores import LocalStore


def fetched(made, dst, **options) -> int:
    """Bytes of chunks that a pull takes."""
    store = CountingStore(LocalStore(made.package))
    pull_with(store, dst, **options)
    return sum(taken for *_, taken in store.ranges)


def whole(made) -> int:
    return sum(update.bytes for update in made.manifest.updates)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("1_Pooling/config.json", 0.1),
        ("tokenizer.json", 0.1),
        ("model-00002-of-00002.safetensors", 0.8),
        ("extra.npz", 0.3),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_one_file(made, tmp_path, name, share, missing):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    (dst / "mine.txt").write_text("mine")
    kept = (dst / "model-00001-of-00002.safetensors").stat().st_ino
    if missing:
        (dst / name).unlink()
    else:
        flip(dst / name, (dst / name).stat().st_size // 2)
        with pytest.raises(UsageError, match="--repair"):
            pull(made.package, dst)
    assert fetched(made, dst, repair=not missing) < share * whole(made)
    assert tree(dst) == {**tree(made.model), "mine.txt": b"mine"}
    assert (dst / "model-00001-of-00002.safetensors").stat().st_ino == kept
    assert leftovers(tmp_path) == []
    assert fetched(made, dst) == 0


def test_an_earlier_state_is_repaired_and_then_updated(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    (dst / "config.json").write_text("edited")
    taken = fetched(made, dst, repair=True)
    rest = made.update("8bit").bytes + made.update("exact").bytes
    assert rest <= taken < rest + 0.1 * made.update("base").bytes
    assert tree(dst) == tree(made.model)


def test_all_files(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    for name in tree(made.model):
        (dst / name).unlink()
    assert fetched(made, dst) == whole(made)
    assert tree(dst) == tree(made.model)


def test_where_one_is_damaged_others_are_read(made, tmp_path):
    """Damage that leaves the time of change, next to one that does not."""
    dst = tmp_path / "dst"
    pull(made.package, dst)
    change_unseen(dst / "model-00001-of-00002.safetensors")
    (dst / "config.json").unlink()
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)


def test_what_verify_has_found_is_repaired(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    change_unseen(dst / "model-00001-of-00002.safetensors")
    with pytest.raises(IntegrityError, match="--repair"):
        verify(dst)
    with pytest.raises(UsageError, match="--repair"):
        pull(made.package, dst)
    assert fetched(made, dst, repair=True) < whole(made)
    assert tree(dst) == tree(made.model)
    verify(dst)


def test_a_repair_that_is_broken_off_goes_on(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    (dst / "model-00001-of-00002.safetensors").unlink()
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n > 12)
    with contextlib.suppress(StoreError):
        pull_with(store, dst, retry=QUICK, jobs=1)
    assert (dst / "config.json").exists()
    pull(made.package, dst)
    assert tree(dst) == tree(made.model)
    assert leftovers(tmp_path) == []


def test_where_the_package_is_damaged_there_it_is_said(made, package, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    (dst / "config.json").unlink()
    for path in package.glob("base-*.bin"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IntegrityError, match="base-000"):
        pull(package, dst, retry=QUICK)
    assert (dst / "tokenizer.json").exists()


def test_a_version_that_is_reached_through_another_one(versions: Versions, tmp_path):
    dst = tmp_path / "dst"
    pull(versions.package, dst)
    name = next(iter(tree(dst)))
    (dst / name).unlink()
    pull(versions.package, dst)
    assert tree(dst) == tree(versions.models["v3"])
