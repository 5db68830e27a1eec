"""PP-OCR on lines and Magika on files: what is made, what is counted, and the real models."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from p2u.errors import FormatError
from p2u_lab import weights
from p2u_lab.base import MissingDataError
from p2u_lab.language import files, libraries, lines, samples
from p2u_lab.language.onnx import session


def test_lines_are_the_same_everywhere() -> None:
    every = lines.lines()
    assert len(every) == len({line.text for line in every}) == 633
    assert every[0] == lines.Line("CURRY AND RICE, 59.97", "DejaVuSans", 27, 0)
    assert {line.font for line in every} == set(lines.FONTS)


def test_a_line_is_rendered() -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    line = lines.Line("Hello there", "DejaVuSans", 20, 7)
    first, again = (np.asarray(lines.rendered(line)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.dtype == np.uint8
    assert first.min() < 120 < 200 < first.max()
    given = lines._input(lines.rendered(line))
    assert given.shape[:3] == (1, 3, lines.HEIGHT)
    assert given.shape[3] >= 320
    assert np.abs(given).max() <= 1


def test_repetitions_and_blanks_are_left_out() -> None:
    alphabet = ["", "a", "b", " "]
    classes = [0, 1, 1, 0, 1, 2, 2, 3, 2]
    assert lines._decoded(np.eye(4, dtype=np.float32)[classes], alphabet) == "aab b"


def test_files_are_what_they_say() -> None:
    pytest.importorskip("PIL")
    every = samples.made(2)
    found = {name: content for name, _, content in every}
    assert found == {name: content for name, _, content in samples.made(2)}
    assert len({label for _, label, _ in every}) >= 32
    assert found["csv0"] != found["csv1"]
    json.loads(found["json0"])
    assert zipfile.ZipFile(io.BytesIO(found["zip0"])).testzip() is None
    assert found["png0"].startswith(b"\x89PNG")
    assert found["gzip0"].startswith(b"\x1f\x8b")
    compile(samples.modules(1)[0][2], "module", "exec")


def test_what_the_network_sees_of_a_file() -> None:
    config = {"beg_size": 8, "end_size": 4, "block_size": 10, "padding_token": 256}
    row = files.features(b"  abc\n", config).tolist()
    assert row == [*b"abc\n", 256, 256, 256, 256, *b" abc"]
    row = files.features(bytes(range(65, 91)), config).tolist()
    assert bytes(row) == b"ABCDEFGHWXYZ"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(FormatError, match="0 ONNX models"):
        session(tmp_path)


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(MissingDataError, match="p2u-lab\\[torch\\]"):
        libraries.imported("no_such_library")


def installed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("onnxruntime")
    if weights._installed(weights.ONNX_MODELS[name]) is None:
        pytest.skip(f"{weights.ONNX_MODELS[name].requirement} is not installed")
    monkeypatch.setenv("P2U_MODELS", str(tmp_path))
    return weights.ensure_onnx(name)


@pytest.mark.slow
def test_ppocr_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    folder = installed("ppocr-v4-rec", tmp_path, monkeypatch)
    found = lines.Lines(6).scores(folder)
    assert found.mean > 0.9
    assert found.weights is not None
    assert found.weights[0] == len("CURRYANDRICE,59.97")


@pytest.mark.slow
def test_magika_knows_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    folder = installed("magika", tmp_path, monkeypatch)
    assert files.Files(30).scores(folder).mean > 0.9


def test_other_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "magika" / "models" / "standard_v3_3"
    package.mkdir(parents=True)
    (package / "model.onnx").write_bytes(b"something else")
    monkeypatch.setenv("P2U_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(weights, "_installed", lambda model: tmp_path / "magika")
    with pytest.raises(MissingDataError, match="SHA-256"):
        weights.ensure_onnx("magika")
    assert not (tmp_path / "models" / "magika").exists()
