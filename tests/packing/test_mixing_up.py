"""Nothing is overwritten or mixed up by mistake: packages, states and models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import p2u
from packing_kit import Tensors, check_pull, content, manifest_of, model, moved, weights

from p2u import pack, publish, pull
from p2u.errors import P2UError, UsageError


def tensors(seed: int = 0) -> Tensors:
    return {
        "embed.weight": weights("F32", 100, 64, seed=seed),
        "layer.weight": weights("F32", 64, 64, seed=seed + 1),
        "layer.bias": weights("F32", 64, seed=seed + 2),
    }


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return model(tmp_path / "model", tensors())


@pytest.fixture
def package(src: Path, tmp_path: Path) -> Path:
    pack(src, tmp_path / "package")
    return tmp_path / "package"


def test_pack_replaces_a_package_only_where_that_is_meant(src: Path, package: Path) -> None:
    two = model(src.parent / "two", {"other": weights("F32", 64, 64, seed=9)})
    publish(model(src.parent / "next", {**tensors(), "new": weights("F32", 8, 8)}), package)
    before = content(package)
    for given in (src, two, src / "model.safetensors"):
        with pytest.raises(
            UsageError, match=r"'model' with 2 versions: v1, v2.*publish.*--replace"
        ):
            pack(given, package)
    said = p2u("pack", two, package)
    assert said.status == 2
    assert "--replace" in said.err
    assert content(package) == before
    assert p2u("pack", two, package, "--replace").status == 0
    assert manifest_of(package).name == "two"
    with pytest.raises(UsageError, match="--replace"):
        pack(src, package, parent=package, replace=True)


@pytest.mark.parametrize("how", ["folder", "file", "copy", "subfolder", "publish"])
@pytest.mark.parametrize("state", ["base", "8bit"])
def test_a_state_before_the_exact_one_is_not_the_model(
    package: Path, tmp_path: Path, how: str, state: str
) -> None:
    pulled = tmp_path / "pulled"
    pull(package, pulled, until=state)
    given = pulled
    if how == "file":
        given = pulled / "model.safetensors"
    elif how == "copy":  # other times and inodes
        given = shutil.copytree(pulled, tmp_path / "copy", copy_function=shutil.copyfile)
    elif how == "subfolder":
        (tmp_path / "outer").mkdir()
        given = pulled.rename(tmp_path / "outer" / "sub")
    command = publish if how == "publish" else pack
    with pytest.raises(UsageError, match=rf"state v1@{state} of 'model'.*p2u pull.*--force"):
        command(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    command(given, tmp_path / "out", force=True)
    check_pull(tmp_path / "out", given, tmp_path / "again") if given.is_dir() else None


def test_a_part_of_a_pulled_folder(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    model(whole / "unet", tensors(1))
    model(whole / "vae", tensors(2))
    pack(whole, tmp_path / "p")
    pull(tmp_path / "p", tmp_path / "pulled", until="base")
    with pytest.raises(UsageError, match=r"model\.safetensors is that state"):
        pack(tmp_path / "pulled" / "unet", tmp_path / "q")


def test_pulled_folders_that_are_the_model(package: Path, src: Path, tmp_path: Path) -> None:
    pulled = tmp_path / "pulled"
    pull(package, pulled)
    report = pack(pulled, tmp_path / "exact")
    assert report.left_out == (".p2u-state.json",)
    check_pull(tmp_path / "exact", src, tmp_path / "again")
    # Trained further from the base: its weights are nobody's state any more.
    pull(package, tmp_path / "tuned", until="base")
    shutil.copy(model(tmp_path / "new", tensors(5)) / "model.safetensors", tmp_path / "tuned")
    pack(tmp_path / "tuned", tmp_path / "from-tuned")
    # A state file that is none does no harm.
    for text in ("", "[1]", "[" * 9999, '{"state": 5, "files": [[], [7, 8, 9], {}]}'):
        (tmp_path / "tuned" / ".p2u-state.json").write_text(text)
        pack(tmp_path / "tuned", tmp_path / "from-tuned", replace=True)


def test_an_unrelated_model_is_no_next_version(package: Path, tmp_path: Path) -> None:
    before = content(package)
    others: dict[str, Tensors] = {
        "names": {f"h.{n}.attn": weights("F32", 48, 48, seed=n) for n in range(3)},
        "shapes": {
            "embed.weight": weights("F32", 100, 96, seed=7),
            "layer.weight": weights("F32", 96, 96, seed=8),
            "layer.bias": weights("F32", 96, seed=9),
        },
        "dtypes": {"layer.qweight": ("I32", (64, 64), os.urandom(4 * 64 * 64))},
    }
    for name, other in others.items():
        given = model(tmp_path / name, other)
        for parent in (None, package):
            with pytest.raises(UsageError, match=r"another model than v1@exact: 0 of.*--force"):
                (publish if parent is None else pack)(given, package, parent=parent)
    assert content(package) == before
    report = publish(tmp_path / "names", package, force=True)
    assert report.version == "v2"
    check_pull(package, tmp_path / "names", tmp_path / "out")


def test_related_models_are_next_versions(package: Path, tmp_path: Path) -> None:
    """Tuned, trained anew, with a larger vocabulary, renamed, in another precision, with a head."""
    first = tensors()
    larger = weights("F32", 120, 64, seed=11)
    versions: list[Tensors] = [
        {name: moved(tensor, 0.5) for name, tensor in first.items()},
        tensors(40),
        {**first, "embed.weight": larger},
        {f"model.{name}": tensor for name, tensor in first.items()},
        {**first, "head": weights("F32", 200, 64, seed=12)},
    ]
    for number, version in enumerate(versions):
        publish(model(tmp_path / f"{number}", version), package)
    assert len(manifest_of(package).releases) == 1 + len(versions)


def test_the_same_model_twice_is_no_version(package: Path, src: Path, tmp_path: Path) -> None:
    before = content(package)
    said = p2u("publish", src, package)
    assert (said.status, said.out.strip()) == (
        0, f"{package}: nothing to publish, v1 holds the same files"
    )  # fmt: skip
    tree = json.loads(p2u("publish", src, package, "--json", "--version", "mine").out)
    assert (tree["version"], tree["unchanged"]) == ("v1", True)
    assert content(package) == before
    # A file more is a change, and so is an earlier version: somebody takes the last one back.
    (src / "README.md").write_text("new")
    assert publish(src, package).version == "v2"
    (src / "README.md").unlink()
    assert publish(src, package).version == "v3"


def test_what_is_left_out_is_said(src: Path, tmp_path: Path) -> None:
    (src / ".git").mkdir()
    (src / ".git" / "HEAD").write_text("ref")
    (src / "empty").mkdir()
    (src / ".hidden").write_text("is carried")
    (src / "copy.json").symlink_to("model.safetensors")
    said = p2u("pack", src, tmp_path / "p")
    assert "left out: .git/, empty/\n" in said.out
    assert "note: 1 links are packed as what they lead to: copy.json" in said.out
    tree = json.loads(p2u("publish", src, tmp_path / "q", "--json").out)
    assert tree["left_out"] == [".git/", "empty/"]
    pull(tmp_path / "p", tmp_path / "out")
    assert (tmp_path / "out" / ".hidden").read_text() == "is carried"
    assert p2u("verify", tmp_path / "out").status == 0


def test_a_model_that_cannot_be_scanned_changes_nothing(package: Path, tmp_path: Path) -> None:
    before = content(package)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(P2UError):
        pack(tmp_path / "bad", package, replace=True)
    assert content(package) == before
