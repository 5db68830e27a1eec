"""The files of a folder that belong to a model, and what is left out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2u.errors import FormatError
from p2u.formats.walk import ModelFolder, is_hidden, walk_files


def write(root: Path, *files: str) -> ModelFolder:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    return walk_files(str(root))


def test_hidden_files_belong_to_the_model(tmp_path: Path) -> None:
    files = (".gitattributes", ".env.example", "shard/.metadata", ".config/a/b.json", "model.bin")
    found = write(tmp_path, *files)
    assert found.files == sorted((file, len(file)) for file in files)
    assert found.left_out == []


@pytest.mark.parametrize(
    ("file", "left"),
    [
        (".git/objects/aa/bb", ".git/"),
        (".git", ".git"),  # of a submodule
        ("unet/.git/HEAD", "unet/.git/"),
        (".hg/store", ".hg/"),
        (".svn/entries", ".svn/"),
        (".cache/huggingface/x.lock", ".cache/"),
        ("code/__pycache__/m.cpython-311.pyc", "code/__pycache__/"),
        ("vae/.DS_Store", "vae/.DS_Store"),
        ("._model.safetensors", "._model.safetensors"),
        (".nfs000000000001", ".nfs000000000001"),
        (".p2u-state.json", ".p2u-state.json"),
        ("text/.P2U-lock", "text/.P2U-lock"),
        (".unet.p2u/journal", ".unet.p2u/"),
    ],
)
def test_what_is_left_out_is_listed(tmp_path: Path, file: str, left: str) -> None:
    found = write(tmp_path, "model.bin", file)
    assert [path for path, _ in found.files] == ["model.bin"]
    assert found.left_out == [left]


@pytest.mark.parametrize("name", [".github/a", ".cached", "git/a", "p2u.json", "_.DS_Store", ".p2"])
def test_names_that_only_look_alike_belong_to_the_model(tmp_path: Path, name: str) -> None:
    assert [path for path, _ in write(tmp_path, name).files] == [name]


def test_empty_folders_are_listed(tmp_path: Path) -> None:
    (tmp_path / "logs" / "old").mkdir(parents=True)
    found = write(tmp_path, "model.bin", "only/.git/HEAD")
    assert found.left_out == ["logs/old/", "only/.git/"]


def test_links_within_the_folder_are_listed(tmp_path: Path) -> None:
    root, blobs = tmp_path / "model", tmp_path / "blobs"
    write(root, "v1/model.bin")
    write(blobs, "aa")
    (root / "model.bin").symlink_to("v1/model.bin")
    (root / "latest").symlink_to("v1")
    (root / "from-cache").symlink_to(blobs / "aa")  # as in the cache of Hugging Face
    found = walk_files(str(root))
    assert [path for path, _ in found.files] == [
        *("from-cache", "latest/model.bin", "model.bin", "v1/model.bin")
    ]
    assert found.links == ["latest", "model.bin"]


def test_a_link_of_a_tool_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "model"
    write(root, "model.bin")
    (root / ".cache").symlink_to("/nonexistent")
    assert walk_files(str(root)).left_out == [".cache"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["pipe", ".hidden-pipe"])
def test_what_cannot_be_kept_is_an_error(tmp_path: Path, name: str) -> None:
    write(tmp_path, "model.bin")
    os.mkfifo(tmp_path / name)
    with pytest.raises(FormatError, match="neither a file nor a folder"):
        walk_files(str(tmp_path))


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="names are bytes")
def test_a_hidden_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "model.bin")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/.caf\xe9")).write_text("")
    with pytest.raises(FormatError, match="not UTF-8"):
        walk_files(str(tmp_path))


def test_what_hidden_is() -> None:
    assert is_hidden(".a") and is_hidden("a/.b/c") and is_hidden("a/.b")
    assert not is_hidden("a") and not is_hidden("a.b/c.d")
