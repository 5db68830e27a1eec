"""scan_model on files and directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from p2u.errors import DiskError, FormatError
from p2u.formats import scan_model
from p2u.types import ModelFile, TensorSpan

ONE = {"w": np.ones((2, 3), np.float32)}


def sharded(folder: Path, prefix: str = "model") -> dict[str, object]:
    """Two shards and their index; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number in (1, 2):
        shard = f"{prefix}-{number:05}-of-00002.safetensors"
        save_file({f"layer.{number}": np.full(number, 7, np.float16)}, folder / shard)
        weight_map[f"layer.{number}"] = shard
    index: dict[str, object] = {"metadata": {"total_size": 6}, "weight_map": weight_map}
    (folder / f"{prefix}.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_file(ONE, path)
    (tmp_path / "beside.txt").write_text("is not part of it")
    size = path.stat().st_size
    expected = ModelFile(
        "m.safetensors", size, (TensorSpan("w", "F32", (2, 3), "m.safetensors", size - 24, 24),)
    )
    model = scan_model(str(path))
    assert model.files == (expected,)
    assert model.spans == expected.spans
    assert model.locate("m.safetensors") == str(path)
    monkeypatch.chdir(tmp_path)
    model = scan_model("m.safetensors")
    assert model.files == (expected,)
    assert Path(model.locate("m.safetensors")).samefile(path)


def test_directory(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "model.safetensors")
    save_file({"dense": np.ones(1, np.int8)}, tmp_path / "model2.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "empty").write_bytes(b"")
    pooling = tmp_path / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text("{ }")
    for hidden in (".git", ".cache/huggingface"):
        (tmp_path / hidden).mkdir(parents=True)
        (tmp_path / hidden / "x.safetensors").write_bytes(b"not a model")
    (tmp_path / ".gitattributes").write_text("*.safetensors filter=lfs")
    (tmp_path / ".draft.safetensors").write_bytes(b"is carried, and not read")

    model = scan_model(str(tmp_path))

    assert [(file.path, len(file.spans)) for file in model.files] == [
        (".draft.safetensors", 0),
        (".gitattributes", 0),
        ("1_Pooling/config.json", 0),
        ("config.json", 0),
        ("empty", 0),
        ("model.safetensors", 1),
        ("model2.safetensors", 1),
    ]
    assert model.left_out == (".cache/", ".git/")
    assert [file.size for file in model.files] == [
        Path(model.locate(file.path)).stat().st_size for file in model.files
    ]
    assert [(span.name, span.file) for span in model.spans] == [
        ("w", "model.safetensors"),
        ("dense", "model2.safetensors"),
    ]
    # The order is that of the names, not that of the file system.
    assert scan_model(f"{tmp_path}/").files == model.files


def test_one_name_in_two_files(tmp_path: Path) -> None:
    # text_encoder and unet of a pipeline, say: each has its own "w".
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file(ONE, tmp_path / folder / "model.safetensors")
    keys = [(span.file, span.name) for span in scan_model(str(tmp_path)).spans]
    assert keys == [("a/model.safetensors", "w"), ("b/model.safetensors", "w")]


@pytest.mark.parametrize("folder", ["", "unet"])
def test_sharded(tmp_path: Path, folder: str) -> None:
    sharded(tmp_path / folder)
    model = scan_model(str(tmp_path))
    assert [span.name for span in model.spans] == ["layer.1", "layer.2"]
    assert len(model.files) == 3


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "m.safetensors.index.fp16.json"])
def test_missing_shard(tmp_path: Path, name: str) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / name)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert isinstance(index["weight_map"], dict)
    with pytest.raises(FormatError) as caught:
        scan_model(str(tmp_path))
    assert caught.value.file == name
    assert "1 of 2 shards are missing: model-00002-of-00002.safetensors" in str(caught.value)


def test_missing_tensor(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shard = "model-00001-of-00002.safetensors"
    assert isinstance(index["weight_map"], dict)
    index["weight_map"].update({f"layer.{n}": shard for n in range(2, 9)})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="7 tensors are not in the shard") as caught:
        scan_model(str(tmp_path))
    assert f"layer.2 (in {shard})" in str(caught.value)
    assert "and 2 more" in str(caught.value)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/../x.safetensors", ""])
def test_index_cannot_point_elsewhere(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    sharded(folder)
    save_file(ONE, tmp_path / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(FormatError, match="1 of 1 shards are missing"):
        scan_model(str(folder))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "weight_map must map"),
        (b'{"weight_map": []}', "weight_map must map"),
        (b'{"weight_map": {"a": 1}}', "weight_map must map"),
        (b'{"weight_map": {"a": null}}', "weight_map must map"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "appears twice"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_index(tmp_path: Path, index: bytes, expected: str) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(FormatError, match=expected) as caught:
        scan_model(str(tmp_path))
    assert caught.value.file == "model.safetensors.index.json"


def test_what_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="no such file"):
        scan_model(str(tmp_path / "none"))
    with pytest.raises(FormatError, match=r"no model file in it; it is empty"):
        scan_model(str(tmp_path))
    pickle = tmp_path / "pytorch_model.bin"
    pickle.write_bytes(b"\x80\x02}q.")
    for path in (pickle, tmp_path):
        with pytest.raises(FormatError) as caught:
            scan_model(str(path))
        assert caught.value.file == str(path)
        assert "Supported are .safetensors" in str(caught.value)
    assert "pytorch_model.bin" in str(caught.value)
    (tmp_path / "p2u.json").write_text("{}")
    with pytest.raises(FormatError, match="this is a P2U package"):
        scan_model(str(tmp_path))


@pytest.mark.parametrize("single", [True, False])
def test_no_tensors(tmp_path: Path, single: bool) -> None:
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="no tensors"):
        scan_model(str(tmp_path / "model.safetensors" if single else tmp_path))


def test_malformed_file_is_named_by_its_path_in_the_directory(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "model.safetensors")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "bad.safetensors").write_bytes(b"0" * 20)
    with pytest.raises(FormatError) as caught:
        scan_model(str(tmp_path))
    assert caught.value.file == "sub/bad.safetensors"


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links and POSIX names")


@posix
def test_links_to_files_are_followed(tmp_path: Path) -> None:
    # As Hugging Face's cache has them: snapshots/REVISION/NAME -> ../../blobs/DIGEST
    blobs = tmp_path / "blobs"
    snapshot = tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(ONE, blobs / "digest")
    (snapshot / "model.safetensors").symlink_to("../../blobs/digest")
    model = scan_model(str(snapshot))
    assert [file.path for file in model.files] == ["model.safetensors"]
    assert model.files[0].size == (blobs / "digest").stat().st_size
    assert [span.name for span in model.spans] == ["w"]


@posix
def test_broken_link(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").symlink_to("../blobs/not-fetched")
    with pytest.raises(DiskError, match=r"config\.json: the link leads nowhere"):
        scan_model(str(tmp_path))


@posix
@pytest.mark.parametrize("target", [".", "..", "../b", "loop"])
def test_links_in_circles(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    save_file(ONE, root / "model.safetensors")
    (root / "b" / "back").symlink_to("../a")
    (root / "a" / "loop").symlink_to(target)
    with pytest.raises((FormatError, DiskError), match=r"runs in a circle|leads nowhere"):
        scan_model(str(root))


@posix
def test_link_to_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    save_file(ONE, root / "a" / "model.safetensors")
    (root / "same").symlink_to("a")
    files = ["a/model.safetensors", "same/model.safetensors"]
    assert [file.path for file in scan_model(str(root)).files] == files
    # root2 begins like root, but lies outside
    outside = tmp_path / "root2"
    outside.mkdir()
    (outside / "secret").write_text("")
    (root / "out").symlink_to(outside)
    with pytest.raises(FormatError, match="out: a link to a folder outside"):
        scan_model(str(root))
    # The directory itself may be a link.
    (root / "out").unlink()
    (tmp_path / "link").symlink_to(root)
    assert [file.path for file in scan_model(str(tmp_path / "link")).files] == files


@posix
def test_special_files_and_names(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="pipe: neither a file nor a folder"):
        scan_model(str(tmp_path))
    with pytest.raises(FormatError, match="neither a file nor a folder"):
        scan_model(str(tmp_path / "pipe"))
    (tmp_path / "pipe").unlink()
    for name in (b"a\\b", b"new\nline", b"\xff"):
        path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - bytes
        with open(path, "wb"):
            pass
        with pytest.raises(FormatError) as caught:
            scan_model(str(tmp_path))
        str(caught.value).encode()  # can be shown on any terminal
        os.unlink(path)  # noqa: PTH108
    assert scan_model(str(tmp_path)).spans


def test_scanning_loads_no_heavy_library() -> None:
    code = "import sys, p2u.formats; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
