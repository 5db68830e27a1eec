"""Calibrated packing: a better base at the same steps, exact at the end, hostile files refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import write_safetensors
from layers import Array, inputs, moments, weights
from manifests import manifest_of

import p2u
from p2u.errors import DiskError, FormatError, P2UError, UsageError
from p2u.packing.levels import encode
from p2u.packing.packer import pack_first
from p2u.packing.recipe import Recipe
from p2u.packing.rounding import calibration as cal
from p2u.packing.rounding.calibration import Calibration, FactorEntry, Writer, make_factor
from p2u.packing.settings import make_settings

DTYPES = {"F32": "<f4", "F16": "<f2"}


def encoded(array: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype(DTYPES[dtype]).tobytes()


def write(path: Path, tensors: dict[str, tuple[list[Array], int]], damping: float = 0.01) -> Path:
    """A calibration file: for each tensor the inputs of its groups, and the axis."""
    entries = [FactorEntry((name,), i, axis) for i, (name, (_, axis)) in enumerate(tensors.items())]
    shapes = [(len(xs), xs[0].shape[1]) for xs, _ in tensors.values()]
    writer = Writer(str(path), entries, shapes)
    for xs, _ in tensors.values():
        writer.add(make_factor(moments(xs), damping))
    writer.close(complete=True)
    return path


def model(path: Path, tensors: dict[str, Array], dtype: str = "F32") -> Path:
    path.mkdir()
    items = [(name, dtype, a.shape, encoded(a, dtype)) for name, a in tensors.items()]
    write_safetensors(path / "model.safetensors", items)
    return path


def state(package: Path, label: str) -> dict[str, Array]:
    """Tensors of a state, as float64."""
    return {name: a.astype(np.float64) for name, a in p2u.load(package, label).items()}


def columns_of(w: Array) -> Array:
    return w.reshape(len(w), -1)


def noise(w: Array, base: Array, xs: list[Array], axis: int) -> float:
    """Mean squared error at the layer's output."""
    error = base - w.astype(np.float64)
    error = error.T if axis == 0 else columns_of(error)
    per_group = len(error) // len(xs)
    return sum(
        float(((error[g * per_group : (g + 1) * per_group] @ x.T) ** 2).sum())
        for g, x in enumerate(xs)
    )


#: Shape, groups and axis of tensors whose rows are cut, joined or crossed in every way there is.
LAYERS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "linear": ((200, 96), 1, 1),
    "conv": ((24, 10, 3, 3), 1, 1),
    "grouped": ((48, 5, 3, 3), 4, 1),
    "depthwise": ((60, 1, 3, 3), 60, 1),
    "pointwise": ((50, 12, 1, 1), 1, 1),
    "transposed": ((90, 130), 1, 0),
}


@pytest.fixture
def layers(tmp_path: Path) -> Any:
    tensors = {name: weights(shape) for name, (shape, _, _) in LAYERS.items()}
    known: dict[str, tuple[list[Array], int]] = {}
    for name, (shape, groups, axis) in LAYERS.items():
        columns = shape[0] if axis == 0 else int(np.prod(shape[1:]))
        known[name] = [inputs(columns, seed=g) for g in range(groups)], axis
    return tensors, known, write(tmp_path / "file", known)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("chunk", [1 << 20, 1 << 11])
def test_every_layer_is_better_than_rounding(
    tmp_path: Path, layers: Any, dtype: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, known, file = layers
    # Chunks this small have tables that are large beside them: some would go opaque.
    monkeypatch.setattr(encode, "opaque_guess", lambda data, item: 1 << 60)
    source = model(tmp_path / "model", tensors, dtype)
    recipe = Recipe(bits=3.0)
    plain = pack_first(
        str(source), str(tmp_path / "plain"), make_settings(recipe, chunk_elements=chunk)
    )
    settings = make_settings(recipe, calibration=file, thrift=0.1, chunk_elements=chunk)
    made = pack_first(str(source), str(tmp_path / "made"), settings)
    assert abs(made.states[0].bits - plain.states[0].bits) < 0.1
    exact, before = (state(tmp_path / "plain", label) for label in ("exact", "base"))
    after = state(tmp_path / "made", "base")
    for name, (xs, axis) in known.items():
        # Nine columns have little to share.
        most = 0.95 if name == "depthwise" else 0.6
        ratio = noise(exact[name], after[name], xs, axis) / noise(
            exact[name], before[name], xs, axis
        )
        assert ratio < most, name
    p2u.verify(tmp_path / "made", decode=True)
    p2u.pull(tmp_path / "made", tmp_path / "out")
    original = (source / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == original


def test_bytes_do_not_depend_on_the_threads(tmp_path: Path, layers: Any) -> None:
    tensors, _, file = layers
    source = model(tmp_path / "model", tensors)
    for jobs in (1, 2, 5):
        settings = make_settings(calibration=file, jobs=jobs, chunk_elements=1 << 11)
        pack_first(str(source), str(tmp_path / str(jobs)), settings)
    first, *others = [
        {f.name: f.read_bytes() for f in (tmp_path / str(jobs)).iterdir()} for jobs in (1, 2, 5)
    ]
    assert all(other == first for other in others)
    assert first != {}


def test_thrift_is_a_dial(tmp_path: Path) -> None:
    w = weights((300, 128))
    xs = [inputs(128)]
    file = write(tmp_path / "file", {"w": (xs, 1)})
    source = model(tmp_path / "model", {"w": w})
    noises, sizes = [], []
    for number, thrift in enumerate((0, 0.1, 0.2, 0.35, 0.6, 16)):
        package = tmp_path / str(number)
        report = p2u.pack(
            source, package, levels=("base", "exact"), calibration=file, thrift=thrift
        )
        noises.append(noise(w, state(package, "base")["w"], xs, 1))
        sizes.append(report.states[-1].bytes)
    assert noises == sorted(noises)
    assert sizes == sorted(sizes, reverse=True)
    plain = p2u.pack(source, tmp_path / "plain", levels=("base", "exact"))
    assert sizes[-1] - plain.states[-1].bytes < 300  # nothing leaves its bin: only names differ


@pytest.mark.parametrize("levels", [("base", "exact"), ("base", "8bit", "exact")])
def test_the_8bit_level_does_not_care(tmp_path: Path, levels: tuple[str, ...]) -> None:
    w = weights((300, 128))
    source = model(tmp_path / "model", {"w": w}, "BF16")
    file = write(tmp_path / "file", {"w": ([inputs(128)], 1)})
    plain = p2u.pack(source, tmp_path / "plain", levels=levels)
    made = p2u.pack(source, tmp_path / "made", levels=levels, calibration=file)
    assert made.states[-1].bytes < plain.states[-1].bytes * 1.15
    if "8bit" in levels:
        # The first refinement knows each weight's own bin again.
        for folder in ("plain", "made"):
            p2u.pull(tmp_path / folder, tmp_path / f"{folder}-8bit", until="8bit")
        names = [tmp_path / f"{f}-8bit" / "model.safetensors" for f in ("plain", "made")]
        assert names[0].read_bytes() == names[1].read_bytes()


def test_what_is_odd_survives(tmp_path: Path) -> None:
    w = weights((64, 64))
    w[3] = 0
    w[5, ::2] = 0
    w[6, 1] = -0.0
    w[7, 3], w[7, 4], w[8, 0] = np.nan, -np.inf, 1e30
    w[10] *= 1e-40
    source = model(tmp_path / "model", {"w": w})
    file = write(tmp_path / "file", {"w": ([inputs(64)], 1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p2u.pack(source, tmp_path / "package", calibration=file)
    base = state(tmp_path / "package", "base")["w"]
    assert not base[w == 0].any()  # pruned weights stay pruned
    assert np.array_equal(base[7, 3:5], w[7, 3:5], equal_nan=True)
    p2u.pull(tmp_path / "package", tmp_path / "out")
    ends = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("model", "out")]
    assert ends[0] == ends[1]


# ---------------------------------------------------------------- names


def test_names_may_differ_by_a_prefix(tmp_path: Path) -> None:
    tensors = {f"bert.layer.{i}.weight": weights((64, 64), i) for i in range(3)}
    source = model(tmp_path / "model", tensors)
    plain = p2u.pack(source, tmp_path / "plain").manifest.states[0].digest
    for number, rename in enumerate(("layer.{}.weight", "bert.layer.{}.weight",
                                     "outer.bert.layer.{}.weight")):  # fmt: skip
        file = write(
            tmp_path / f"file{number}",
            {rename.format(i): ([inputs(64, seed=i)], 1) for i in range(3)},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = p2u.pack(source, tmp_path / f"made{number}", calibration=file)
        assert made.manifest.states[0].digest != plain
    digests = {p2u.pack.__module__} | {
        manifest_of(tmp_path / f"made{n}").states[0].digest for n in range(3)
    }
    assert len(digests) == 2  # the module's name and one digest


def test_foreign_tensors_are_told(tmp_path: Path) -> None:
    source = model(tmp_path / "model", {"a.weight": weights((64, 64))})
    x = [inputs(64)]
    file = write(tmp_path / "file", {"a.weight": (x, 1), "other.weight": (x, 1)})
    with pytest.warns(UserWarning, match="other.weight"):
        p2u.pack(source, tmp_path / "package", calibration=file)
    foreign = write(tmp_path / "foreign", {"b.thing": (x, 1)})
    with pytest.raises(UsageError, match=r"b\.thing"):
        p2u.pack(source, tmp_path / "none", calibration=foreign)
    wrong = write(tmp_path / "wrong", {"a.weight": ([inputs(32)], 1)})
    with pytest.raises(UsageError, match="shape is"):
        p2u.pack(source, tmp_path / "none", calibration=wrong)
    assert not (tmp_path / "none").exists()


def test_arguments_are_checked(tmp_path: Path) -> None:
    source = model(tmp_path / "model", {"a.weight": weights((64, 64))})
    for thrift in (-0.1, 17, float("nan")):
        with pytest.raises(UsageError, match="thrift"):
            p2u.pack(source, tmp_path / "none", thrift=thrift)
    with pytest.raises(DiskError):
        p2u.pack(source, tmp_path / "none", calibration=tmp_path / "nothing")


# ---------------------------------------------------------------- hostile files


def hostile(path: Path, change: Any) -> Path:
    """A good file, changed: header (parsed, the JSON inside too) and body are ``change``'s."""
    write(path, {"a.weight": ([inputs(16)], 1)})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    tree = json.loads(header["__metadata__"][cal.KEY])
    change(header, tree, body)
    if cal.KEY in header.get("__metadata__", {}):
        header["__metadata__"][cal.KEY] = json.dumps(tree)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(body))
    return path


def shaped(part: str, shape: list[int]) -> Any:
    return lambda h, _, __: h[f"0.{part}"].update(shape=shape)


ATTACKS = {
    "no metadata": lambda h, _, __: h.pop("__metadata__"),
    "version": lambda _, t, __: t.update(version=2),
    "no tensors": lambda _, t, __: t.update(tensors=[]),
    "tensors": lambda _, t, __: t.update(tensors={"a": 1}),
    "entry": lambda _, t, __: t.update(tensors=["a"]),
    "names": lambda _, t, __: t["tensors"][0].update(names=[1]),
    "no names": lambda _, t, __: t["tensors"][0].update(names=[]),
    "input": lambda _, t, __: t["tensors"][0].update(input=9),
    "input type": lambda _, t, __: t["tensors"][0].update(input="0"),
    "axis": lambda _, t, __: t["tensors"][0].update(axis=2),
    "axis type": lambda _, t, __: t["tensors"][0].update(axis=True),
    "dtype": lambda h, _, __: h["0.factor"].update(dtype="U8"),
    "shape": shaped("factor", [120, 1]),
    "flat": shaped("exponent", [16]),
    "groups": shaped("order", [2, 8]),
    "twice": lambda _, __, b: b.__setitem__(slice(0, 4), b[4:8]),
    "far": lambda _, __, b: b.__setitem__(slice(0, 4), b"\xff\xff\xff\x7f"),
    "short": lambda _, __, b: b.__delitem__(slice(-1, None)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_files_are_refused(tmp_path: Path, attack: str) -> None:
    source = model(tmp_path / "model", {"a.weight": weights((32, 16))})
    file = hostile(tmp_path / "file", ATTACKS[attack])
    with pytest.raises(FormatError) as error:
        p2u.pack(source, tmp_path / "package", calibration=file)
    assert str(file) in str(error.value)
    assert not (tmp_path / "package").exists()


def test_any_truncation_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "file", {"a.weight": ([inputs(6)], 1)})
    raw = file.read_bytes()
    for size in range(len(raw)):
        file.write_bytes(raw[:size])
        with pytest.raises(P2UError):
            Calibration(str(file))


def test_any_factor_gives_a_valid_package(tmp_path: Path) -> None:
    # Mantissas and exponents can be anything: the codes get worse, never wrong.
    def wild(_: Any, __: Any, body: bytearray) -> None:
        body[64:] = np.random.default_rng(3).bytes(len(body) - 64)

    source = model(tmp_path / "model", {"a.weight": weights((32, 16))})
    file = hostile(tmp_path / "file", wild)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p2u.pack(source, tmp_path / "package", calibration=file)
    p2u.verify(tmp_path / "package", decode=True)


def test_a_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "file"), [FactorEntry(("a",), 0, 1)], [(1, 4)])
    writer.close(complete=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DiskError, match="nowhere"):
        Writer(str(tmp_path / "nowhere" / "file"), [FactorEntry(("a",), 0, 1)], [(1, 4)])
