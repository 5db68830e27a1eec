"""ONNX: every state of a package runs in onnxruntime, and the last one is the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import p2u
from p2u.formats import scan_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_models  # noqa: E402
from onnx import TensorProto  # noqa: E402

STATES = ("base", "8bit", "exact")


def tree(folder: Path) -> dict[str, bytes]:
    """Path to content of a model directory's files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".p2u")
    }


def outputs(
    source: Path, name: str, original: Path, tmp_path: Path, feed: dict[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Pack, pull each state, run the model there; checks what must hold of any model.

    Args:
        source: What to pack: a file or a directory.
        name: The model file's path in the package.
        original: The model file.
        tmp_path: For the package and the states.
        feed: The inputs.
    """
    p2u.pack(source, tmp_path / "package", jobs=2)
    expected = onnx_models.run(original, feed)
    found = {"original": expected}
    for state in STATES:
        out = tmp_path / state
        p2u.pull(tmp_path / "package", out, until=state)
        onnx.checker.check_model(str(out / name))
        found[state] = onnx_models.run(out / name, feed)
        assert [a.shape for a in found[state]] == [a.shape for a in expected]
        assert all(np.isfinite(a).all() for a in found[state])
    for ours, theirs in zip(found["exact"], expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    alone = scan_model(str(source))
    wanted = {file.path: Path(alone.locate(file.path)).read_bytes() for file in alone.files}
    assert tree(tmp_path / "exact") == wanted
    assert tree(tmp_path / "base").keys() == wanted.keys()
    return found


def error(found: dict[str, list[np.ndarray]], state: str) -> float:
    """Error of all outputs, each in units of its own root mean square."""
    pairs = zip(found[state], found["original"], strict=True)
    return sum(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", onnx_models.REAL)
def test_real_models(name: str, tmp_path: Path) -> None:
    path = onnx_models.real(name)
    found = outputs(path, path.name, path, tmp_path, onnx_models.inputs(name))
    if max(float(np.abs(a).max()) for a in found["original"]) < 1e-6:
        # A detector that sees nothing: what is left is rounding, which has no error to compare.
        assert all(np.abs(a).max() < 1e-6 for state in STATES for a in found[state])
    else:
        assert error(found, "8bit") < 0.9 * error(found, "base")


def test_external_data(tmp_path: Path) -> None:
    """A Hugging Face style directory with the weights beside the model."""
    name = "ocr-cls"
    folder = tmp_path / "model" / "onnx"
    folder.mkdir(parents=True)
    model = onnx.load(onnx_models.real(name))
    path = onnx_models.externalised(model, folder, "model.onnx", "data/model.onnx_data")
    (folder.parent / "config.json").write_text("{}")
    feed = onnx_models.inputs(name)
    found = outputs(folder.parent, "onnx/model.onnx", path, tmp_path, feed)
    # One input may flatter a base: near enough will do.
    assert error(found, "8bit") <= max(0.6 * error(found, "base"), 0.02)
    # Where the files lie, too: tensors at odd addresses are read, refined and written back.
    p2u.pull(tmp_path / "package", tmp_path / "8bit", in_place=True)
    assert tree(tmp_path / "8bit") == tree(folder.parent)
    # The model file alone: its data comes along.
    (tmp_path / "alone").mkdir()
    outputs(path, "model.onnx", path, tmp_path / "alone", feed)


def check_memory(path: Path, package: Path) -> None:
    """Compare the arrays that `p2u.load` gives, which lie as the file has them: unaligned."""
    found = p2u.load(package, "exact")
    content = path.read_bytes()
    odd = 0
    for span in scan_model(str(path)).spans:
        array = found[span.name]
        assert array.shape == span.shape
        assert array.tobytes() == content[span.offset : span.offset + span.length]
        assert np.isfinite(array.astype(np.float64)).all()
        odd += not array.flags.aligned
    assert odd > 20


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "F16"),
        (TensorProto.BFLOAT16, "BF16"),
        (TensorProto.DOUBLE, "F64"),
        (TensorProto.INT8, "I8"),
    ],
)
def test_other_types(kind: int, dtype: str, tmp_path: Path) -> None:
    """A real model whose weights are of another type."""
    name = "ocr-cls"
    path = tmp_path / "model.onnx"
    onnx.save(onnx_models.as_type(onnx.load(onnx_models.real(name)), kind), path)
    spans = [s for s in scan_model(str(path)).spans if s.dtype == dtype]
    assert sum(s.length for s in spans) > 50_000
    found = outputs(path, path.name, path, tmp_path, onnx_models.inputs(name))
    check_memory(path, tmp_path / "package")
    # Elements that are not progressive are exact from the base on.
    base, exact = (p2u.load(tmp_path / "package", state) for state in ("base", "exact"))
    same = [base[s.name].tobytes() == exact[s.name].tobytes() for s in spans]
    assert all(same) if dtype in ("F64", "I8") else not all(same)
    # One input may flatter a base: near enough will do.
    assert error(found, "8bit") <= max(0.6 * error(found, "base"), 0.02)


def by_float_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights as packed float_data instead of raw_data."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for entry in onnx_models.all_tensors(out):
        if entry.data_type == TensorProto.FLOAT and entry.HasField("raw_data"):
            values = np.frombuffer(entry.raw_data, np.float32)
            entry.ClearField("raw_data")
            entry.float_data.extend(values.tolist())
    return out


@pytest.mark.parametrize("change", [by_float_data, lambda _: onnx_models.everything()])
def test_other_places(change: Callable[[onnx.ModelProto], onnx.ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(change(onnx.load(onnx_models.real("ocr-cls"))), path)
    feed = onnx_models.inputs("ocr-cls")
    if change is not by_float_data:
        feed = {"x": np.random.default_rng(3).standard_normal((4, 256)).astype(np.float32)}
    found = outputs(path, path.name, path, tmp_path, feed)
    assert error(found, "base") > error(found, "8bit") > 0
