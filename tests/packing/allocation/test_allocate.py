"""Recipes: the base has the size that was asked for, and each tensor the part that it should."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import write_safetensors
from manifests import manifest_of

from p2u.client.live.opening import load
from p2u.errors import P2UError, UsageError
from p2u.package.index import parse_index
from p2u.package.layout import ReleaseLayout, parse_layout
from p2u.packing.allocation.shares import (
    FINEST,
)
from p2u.packing.api import pack
from p2u.packing.report import PackReport

SHAPES = {
    "embed.weight": (3000, 64),
    "layers.0.attn.weight": (96, 96),
    "layers.0.mlp.weight": (256, 96),
    "layers.1.attn.weight": (96, 96),
    "layers.1.mlp.weight": (256, 96),
    "head.weight": (40, 96),
    "head.bias": (40,),
}


def weights(shape: tuple[int, ...], seed: int) -> bytes:
    """Normal weights; each row has a size of its own, as in models that were trained."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 0.05
    if len(shape) > 1:
        values *= np.exp(0.5 * rng.standard_normal((shape[0], 1)))
    return values.astype("<f4").tobytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe") / "model"
    root.mkdir()
    write_safetensors(
        root / "model.safetensors",
        [
            (name, "F32", shape, weights(shape, seed))
            for seed, (name, shape) in enumerate(SHAPES.items())
        ],
    )
    (root / "config.json").write_text(json.dumps({"hidden": 96}))
    return root


def error(package: Path, name: str) -> float:
    """Squared error of a tensor of the base, relative to its squares."""
    base, exact = (load(package, state=s)[name].astype(np.float64) for s in ("base", "exact"))
    return float(((base - exact) ** 2).sum() / (exact**2).sum())


def base_bytes(package: Path) -> int:
    """Bytes of the base state, by the files that are there."""
    manifest = manifest_of(package)
    update = manifest.updates[0]
    keys = [manifest.latest.layout.key, update.index.key, *(b.key for b in update.blobs)]
    return sum((package / key).stat().st_size for key in keys)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_the_base_never_exceeds_its_budget(model: Path, data: st.DataObject) -> None:
    whole = sum(p.stat().st_size for p in model.iterdir())
    budget = data.draw(st.integers(whole // 50, whole // 4))
    damage = data.draw(
        st.none() | st.fixed_dictionaries({name: st.floats(0.01, 100) for name in SHAPES})
    )
    sensitivity = None if damage is None else {"tensors": damage}
    levels = data.draw(st.sampled_from([("base", "exact"), ("base", "8bit", "exact")]))
    keep = data.draw(st.sampled_from([(), ("head.*",)]))
    with tempfile.TemporaryDirectory() as tmp:
        try:
            report = pack(
                model, Path(tmp, "p"), budget=budget, levels=levels, keep=keep,
                sensitivity=sensitivity, jobs=1,
            )  # fmt: skip
        except UsageError as e:
            assert "smallest" in str(e)
            assert budget < whole // 12
            return
        assert base_bytes(Path(tmp, "p")) == report.states[0].bytes <= budget
        # The finest of all bases may be smaller; below a bit per weight sizes jump.
        done = all(offset <= FINEST for offset in report.offsets.values())
        assert done or budget < whole // 20 or report.states[0].bytes > budget - whole // 200


def test_a_part_of_the_model(model: Path, tmp_path: Path) -> None:
    report = pack(model, tmp_path / "p", base_ratio=0.12)
    assert 0.118 < report.states[0].fraction <= 0.12


def test_an_impossible_budget_says_what_is_possible(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        pack(model, tmp_path / "p", budget=1000)
    assert list(tmp_path.iterdir()) == []
    words = str(raised.value).replace(",", "").split()
    least = int(words[words.index("bytes", words.index("smallest")) - 1])
    assert pack(model, tmp_path / "p", budget=least).states[0].bytes == least


def chunk_bits(package: Path, *names: str) -> float:
    """Bits per weight of the base's chunks that hold these tensors and no others."""
    manifest = manifest_of(package)
    layout = parse_layout((package / manifest.latest.layout.key).read_bytes(), manifest.latest)
    update = manifest.updates[0]
    data = (package / update.index.key).read_bytes()
    chunks = parse_index(data, update, ReleaseLayout(manifest.latest, layout)).chunks
    tensors = {n: t for n, t in enumerate(layout.tensors) if t.name in names}
    found = [c for c in chunks if c.segments and {s.tensor for s in c.segments} <= set(tensors)]
    rows = sum(s.rows for c in found for s in c.segments)
    assert rows == sum(t.rows for t in tensors.values())
    return 8 * sum(c.length for c in found) / sum(t.elems for t in tensors.values())


def test_tensors_with_bits_of_their_own(model: Path, tmp_path: Path) -> None:
    plain = pack(model, tmp_path / "plain", bits=3)
    own = {"layers.*": 2.0, "layers.1.mlp.*": 5.0}
    report = pack(model, tmp_path / "p", bits=3, tensor_bits=own)
    assert chunk_bits(tmp_path / "p", "layers.1.mlp.weight") == pytest.approx(5, abs=0.1)
    two = [n for n in SHAPES if n.startswith("layers.") and n != "layers.1.mlp.weight"]
    assert max(report.offsets[n] for n in two) - min(report.offsets[n] for n in two) <= 1
    for name in two:
        assert report.offsets[name] > plain.offsets[name]
    assert error(tmp_path / "p", "layers.1.mlp.weight") < 0.1 * error(tmp_path / "p", two[0])
    # The others have their bits as if these were not there.
    assert chunk_bits(tmp_path / "p", "embed.weight", "head.weight") == pytest.approx(3, abs=0.1)


def test_kept_tensors_are_exact_in_the_base(model: Path, tmp_path: Path) -> None:
    pack(model, tmp_path / "p", bits=2, keep=["*.attn.weight", "head.*"])
    base, exact = load(tmp_path / "p", state="base"), load(tmp_path / "p", state="exact")
    for name in SHAPES:
        kept = "attn" in name or "head" in name
        assert (base[name].tobytes() == exact[name].tobytes()) == kept, name
    # All of them: then there is one state, three times.
    report = pack(model, tmp_path / "all", keep=["*"])
    assert not report.offsets
    assert {len(f.sha256) for f in report.manifest.latest.files} == {1}


def test_a_budget_without_anything_to_choose(model: Path, tmp_path: Path) -> None:
    fixed = {"*": 4.0}
    size = pack(model, tmp_path / "p", tensor_bits=fixed).states[0].bytes
    assert pack(model, tmp_path / "q", tensor_bits=fixed, budget=size).states[0].bytes == size
    with pytest.raises(UsageError, match="smallest"):
        pack(model, tmp_path / "r", tensor_bits=fixed, budget=size - 1)


def test_measured_damage_moves_bits(model: Path, tmp_path: Path) -> None:
    plain = pack(model, tmp_path / "plain", bits=3)
    damage = dict.fromkeys(SHAPES, 1.0) | {"layers.0.mlp.weight": 1000.0}
    path = tmp_path / "sens.json"
    path.write_text(json.dumps({"format": "p2u-sensitivity", "version": 1, "tensors": damage}))
    report = pack(model, tmp_path / "p", bits=3, sensitivity=path)
    name = "layers.0.mlp.weight"
    assert report.offsets[name] < plain.offsets[name] - 64
    assert report.offsets["embed.weight"] > plain.offsets["embed.weight"]
    assert report.states[0].bits == pytest.approx(plain.states[0].bits, abs=0.1)


def test_the_worst_damage_is_made_good_first(model: Path, tmp_path: Path) -> None:
    def order(package: Path, update: int) -> list[set[str]]:
        manifest = manifest_of(package)
        layout = parse_layout((package / manifest.latest.layout.key).read_bytes(), manifest.latest)
        found = manifest.updates[update]
        index = (package / found.index.key).read_bytes()
        chunks = parse_index(index, found, ReleaseLayout(manifest.latest, layout)).chunks
        return [{layout.tensors[s.tensor].name for s in c.segments} for c in chunks]

    pack(model, tmp_path / "plain")
    assert order(tmp_path / "plain", 1)[0] == {"embed.weight"}
    damage = dict.fromkeys(SHAPES, 1.0) | {"layers.0.mlp.weight": 10.0, "layers.1.mlp.weight": 40.0}
    pack(model, tmp_path / "p", sensitivity={"tensors": damage})
    for update in (1, 2):
        chunks = order(tmp_path / "p", update)
        assert "layers.1.mlp.weight" in chunks[0] and len(chunks) > 1
        assert "embed.weight" in chunks[-1]


def contents(report: PackReport, package: Path) -> Mapping[str, bytes]:
    assert report.states
    return {p.name: p.read_bytes() for p in package.iterdir()}


def test_the_package_does_not_depend_on_the_threads(model: Path, tmp_path: Path) -> None:
    packages = []
    for jobs in (1, 2, 5):
        report = pack(
            model, tmp_path / str(jobs), budget=80_000, tensor_bits={"layers.0.*": 4.5},
            keep=["head.*"], sensitivity={"tensors": dict.fromkeys(SHAPES, 0.3)}, jobs=jobs,
            name="x",
        )  # fmt: skip
        packages.append(contents(report, tmp_path / str(jobs)))
    assert packages[0] == packages[1] == packages[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep": ["layers.7.*"]}, "layers.7."),
        ({"tensor_bits": {"nothing": 3}}, "nothing"),
        ({"tensor_bits": {"head.bias": 3}}, "with levels"),
        ({"sensitivity": {"tensors": {"other.weight": 1}}}, "other.weight"),
        ({"sensitivity": "missing.json"}, "missing.json"),
    ],
)
def test_what_a_recipe_says_in_vain(
    model: Path, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(P2UError) as raised:
        pack(model, tmp_path / "p", **arguments)
    assert words in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_keep_their_place(tmp_path: Path) -> None:
    """Weights that are all zero have no size to compare with, and need no bits."""
    shape = (64, 64)
    write_safetensors(
        tmp_path / "m.safetensors",
        [
            ("zero", "F32", shape, bytes(4 * 4096)),
            ("one", "F32", shape, struct.pack("<f", 1) * 4096),
        ],
    )
    report = pack(tmp_path / "m.safetensors", tmp_path / "p", bits=2)
    assert report.states[0].bits < 3
    assert error(tmp_path / "p", "one") < 1e-3
