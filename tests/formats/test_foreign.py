"""Files in the place of a model's: the message says what they are, and what could be done."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from p2u.errors import FormatError
from p2u.formats import scan_model, suffixes

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"

FOREIGN = {
    "Git LFS pointer.*git lfs pull": POINTER,
    "git-annex pointer": b"/annex/objects/SHA256E-s9--abc.bin\n",
    "web page.*login": b"\n<!DOCTYPE html><html><head><title>Sign in</title>",
    "gzip: unpack": gzip.compress(b"x" * 100),
    "zstd: unpack": b"\x28\xb5\x2f\xfd" + bytes(60),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "RAR archive: unpack": b"Rar!\x1a\x07\x01\x00" + bytes(60),
    "server's answer.*login": b'{"error": "Invalid credentials"}',
    "server's answer, not the model": b"Not Found",
    "encrypted: decrypt": b"Salted__" + bytes(60),
    "empty file: fetch it again": b"",
}


@pytest.mark.parametrize("suffix", suffixes())
@pytest.mark.parametrize("words", FOREIGN)
def test_whatever_the_name(tmp_path: Path, words: str, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(FOREIGN[words])
    for given in (file, tmp_path):
        with pytest.raises(FormatError, match=words):
            scan_model(str(given))


def test_next_to_a_good_model_they_are_carried_with_a_note(tmp_path: Path) -> None:
    save_file({"w": np.ones((4, 4))}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(POINTER)
    (tmp_path / "tokenizer.json").write_text("<html>in a text it means nothing</html>")
    found = scan_model(str(tmp_path))
    assert [file.path for file in found.files] == [
        *("model.safetensors", "pytorch_model.bin", "tokenizer.json")
    ]
    (note,) = found.notes
    assert note.startswith("pytorch_model.bin is a Git LFS pointer")


def test_plain_pickles(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(FormatError, match=r"a pickle, but none that torch\.save writes.*Supported"):
        scan_model(str(tmp_path))


# --- files of a known format whose tensors are only carried


def test_compressed_arrays_are_not_nothing(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "w.npz", w=np.ones((8, 8)), v=np.ones((8, 8)))
    with pytest.raises(FormatError, match=r"w\.npz: 2 of its arrays are compressed.*numpy\.savez"):
        scan_model(str(tmp_path))
    save_file({"w": np.ones((4, 4))}, tmp_path / "model.safetensors")
    assert "2 of its arrays are compressed" in scan_model(str(tmp_path)).notes[0]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"m/data.pkl": b"", "m/data/0": b"x" * 64}, "its members are compressed.*torch.save"),
        ({"m/archive_format": b"pt2", "m/models/model.json": b"{}"}, "archive of torch.export"),
        ({"config.json": b"{}", "model.weights.h5": b"\x89HDF"}, "none that torch.save writes"),
    ],
)
def test_archives_of_other_kinds(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(FormatError, match=words) as caught:
        scan_model(str(tmp_path))
    assert "empty" not in str(caught.value)


def test_arrays_of_objects(tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.array(["a", "b"]))
    with pytest.raises(FormatError, match=r"names\.npy: its elements are no plain numbers"):
        scan_model(str(tmp_path))


def test_a_model_without_tensors_is_empty(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save({}))
    with pytest.raises(FormatError, match="the model is empty"):
        scan_model(str(tmp_path))
