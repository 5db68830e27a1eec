"""Which files are compared with the publisher's digests, and what follows when one is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit import STATES, tree
from manifests import write_manifest
from pulling import change_unseen, leftovers

import p2u
from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.disk import files
from p2u.errors import IntegrityError, UsageError
from p2u.package.manifest import state_digest

SHARD = "model-00001-of-00002.safetensors"


def lie(made, package: Path, path: str, state: int) -> None:
    """State a wrong digest for a file in one state."""
    manifest = made.manifest
    found = []
    for file in manifest.latest.files:
        digests = list(file.sha256)
        if file.path == path:
            digests[min(state, len(digests) - 1)] = "0" * 64
        found.append(replace(file, sha256=tuple(digests)))
    states = tuple(
        replace(s, digest=state_digest((f.path, f.size, f.digest(n)) for f in found))
        for n, s in enumerate(manifest.states)
    )
    release = replace(manifest.latest, files=tuple(found), states=states)
    write_manifest(package, replace(manifest, releases=(release,)))


@pytest.mark.parametrize("straight", [False, True])
def test_a_file_is_checked_when_it_is_exact(made, package, tmp_path, straight):
    """Every chunk is right, and the result is not what the manifest states."""
    lie(made, package, SHARD, STATES.index("exact"))
    with pytest.raises(IntegrityError, match=f"{SHARD}.*SHA-256"):
        pull(package, tmp_path / "dst", straight=straight)
    # The best state before is there, so that there is something to use.
    assert made.label(tmp_path / "dst") == "8bit"


def test_a_file_without_levels_is_checked_with_the_base(made, package, tmp_path):
    lie(made, package, "tokenizer.json", 0)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json.*SHA-256"):
        pull(package, tmp_path / "dst", until="base")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("label", ["base", "8bit"])
def test_the_states_before_are_checked_only_where_that_is_asked_for(made, package, tmp_path, label):
    lie(made, package, SHARD, STATES.index(label))
    pull(package, tmp_path / "a", straight=False)
    assert tree(tmp_path / "a") == tree(made.model)
    for straight in (False, True):
        dst = tmp_path / f"b{straight}"
        with pytest.raises(IntegrityError, match=f"{SHARD}.*SHA-256"):
            pull(package, dst, until=label, check="all", straight=straight)
    # Straight there is nothing of it that could be checked.
    pull(package, tmp_path / "c", straight=True, check="all")
    assert tree(tmp_path / "c") == tree(made.model)
    # `verify` checks everything.
    pull(package, tmp_path / "d", until=label)
    with pytest.raises(IntegrityError, match=SHARD):
        verify(tmp_path / "d")
    with pytest.raises(IntegrityError, match=SHARD):
        verify(package, decode=True)


@pytest.mark.parametrize("straight", [False, True])
def test_no_file_is_read_again_to_be_hashed(made, tmp_path, monkeypatch, straight):
    """Digests are taken while the files are written."""
    monkeypatch.setattr(files, "hash_file", None)
    monkeypatch.setattr("p2u.client.folder.local.hash_file", None)
    pull(made.package, tmp_path / "dst", straight=straight, jobs=2)
    assert tree(tmp_path / "dst") == tree(made.model)


def test_an_unknown_choice(made, tmp_path):
    for check in ("none", "base", True):
        with pytest.raises(UsageError, match="check"):
            pull(made.package, tmp_path / "dst", check=check)
    with pytest.raises(UsageError, match="check"):
        p2u.open(made.package, check="some")


@pytest.mark.parametrize("straight", [False, True])
def test_a_damaged_state_is_found_at_the_end_and_can_be_repaired(made, tmp_path, straight):
    """Its files look unchanged, so that they are not read before; the result makes them suspect."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    change_unseen(dst / SHARD)
    for _ in range(2):
        with pytest.raises(UsageError, match=f"{SHARD}.*--repair"):
            pull(made.package, dst, straight=straight)
    pull(made.package, dst, repair=True)
    assert tree(dst) == tree(made.model)
    # At once, where it is said before.
    pull(made.package, tmp_path / "other", until="base")
    change_unseen(tmp_path / "other" / SHARD)
    pull(made.package, tmp_path / "other", repair=True, straight=straight)
    assert tree(tmp_path / "other") == tree(made.model)
    assert leftovers(tmp_path) == []


def test_a_package_that_is_wrong_throughout_ends(made, package, tmp_path):
    """Neither the state between nor the exact one is what the manifest states."""
    lie(made, package, SHARD, STATES.index("8bit"))
    good = made.manifest.latest
    lie_too = replace(made, package=package)
    lie(lie_too, package, SHARD, STATES.index("exact"))
    assert [f.sha256 for f in lie_too.manifest.latest.files] != [f.sha256 for f in good.files]
    for _ in range(2):
        with pytest.raises((IntegrityError, UsageError), match=SHARD):
            pull(package, tmp_path / "dst", repair=True, straight=False)
