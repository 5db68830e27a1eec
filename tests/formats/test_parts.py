"""Models in several files: a part is not the model, and missing parts are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from p2u.errors import FormatError
from p2u.formats import scan_model
from p2u.formats.parts import all_parts, check_parts


def touch(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).write_text("")
    return str(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("model-00001-of-00002.gguf", "model-00002-of-00002.gguf"),
        ("model-1-of-2.fp16.safetensors", "model-2-of-2.fp16.safetensors"),
        ("tf.00000-of-00002.npz", "tf.00001-of-00002.npz"),
        ("consolidated.00.pth", "consolidated.01.pth"),
        ("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"),
        ("model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"),
    ],
)
def test_a_part_brings_the_others(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = touch(tmp_path, *names, "model-00001-of-00003.gguf", "model-1-of-2.safetensors", "a.pt")
    for name in names:
        assert all_parts(root, name) == list(names)


@pytest.mark.parametrize(
    "name",
    ["out-of-africa.bin", "10-of-clubs.bin", "model-v2.pt", "epoch-02.pt", "consolidated.00.pth"],
)
def test_whole_models(tmp_path: Path, name: str) -> None:
    assert all_parts(touch(tmp_path, name, "epoch-01.pt", "11-of-clubs.bin"), name) == [name]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_knows_the_parts(tmp_path: Path, suffix: str) -> None:
    first, second, index = f"first.{suffix}", f"second.{suffix}", f"m.{suffix}.index.json"
    root = touch(tmp_path, first, second, f"other.{suffix}")
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": first, "b": second}}))
    (tmp_path / f"x.{suffix}.index.json").write_text("broken")
    assert all_parts(root, second) == sorted([first, second, index])
    assert all_parts(root, f"other.{suffix}") == [f"other.{suffix}"]


def test_a_part_that_is_named_is_packed_as_the_model(tmp_path: Path) -> None:
    names = [f"m-{number:05}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        save_file({f"w{name}": np.ones((4, 4))}, tmp_path / name)
    (tmp_path / "other.txt").write_text("is not part of it")
    for name in names:
        assert [file.path for file in scan_model(str(tmp_path / name)).files] == names
    (tmp_path / names[1]).unlink()
    for given in (tmp_path, tmp_path / names[0]):
        with pytest.raises(FormatError, match="1 of the 2 files of the model are missing"):
            scan_model(str(given))
    # With an index, its words are better.
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    for given in (tmp_path, tmp_path / names[0]):
        with pytest.raises(FormatError, match=rf"1 of 2 shards are missing: {names[1]}"):
            scan_model(str(given))


def test_missing_parts_of_any_format() -> None:
    check_parts(["a-1-of-2.bin", "a-2-of-2.bin", "a-1-of-2.fp16.bin", "a-2-of-2.fp16.bin"])
    check_parts(["x/n.0-of-2.pt", "x/n.1-of-2.pt", "plain.pt"])
    for files, first in (
        (["a-1-of-3.bin", "a-3-of-3.bin"], 2),
        (["a-1-of-2.bin", "a-2-of-2.fp16.bin"], 2),
        (["x/a-2-of-2.pt", "y/a-1-of-2.pt"], 1),
        (["a-0-of-2.pt"], 1),
    ):
        with pytest.raises(FormatError, match=f"the first is number {first}"):
            check_parts(files)


def test_an_index_without_any_of_its_files_is_only_left_over(tmp_path: Path) -> None:
    """Of a repository that has the model twice; one file of two is a model that is half there."""
    save_file({"w": np.ones((4, 4))}, tmp_path / "model.safetensors")
    index = {"weight_map": {"w": "part-a.bin", "v": "part-b.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    scan_model(str(tmp_path))
    (tmp_path / "part-a.bin").write_bytes(b"carried")
    with pytest.raises(FormatError, match=r"1 of 2 shards are missing: part-b\.bin"):
        scan_model(str(tmp_path))
