"""A reader that knows SPEC.md alone gets what the client gets, from packages of any kind."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from oracle.package import Model, Reader
from oracle.wire import Malformed
from packing_kit import Tensors, content, model, moved, noise, weights

from p2u import gc, pack, publish, pull


def files(folder: Path) -> Model:
    """A model directory's files."""
    return {path: data for path, data in content(folder).items() if not path.startswith(".p2u")}


def check(package: Path, out: Path, given: dict[str, Model] | None = None) -> Reader:
    """All states that can be had, by both."""
    reader = Reader(package)
    reader.check_costs()
    for state, (release, number) in reader.places.items():
        if release["states"][number]["bytes"] is not None:
            pull(package, out / state, until=state)
            assert reader.read(state) == files(out / state)
    for source, model_ in (given or {}).items():
        last = list(reader.places)[-1]
        assert reader.read(last, {source: model_}) == files(out / last)
    return reader


@pytest.fixture
def first() -> Tensors:
    return {
        "embed": weights("BF16", 60, 48, seed=1),
        "layers.0.w": weights("BF16", 40, 64, seed=2),
        "layers.0.norm": weights("F32", 64, seed=3),
        "layers.1.w": weights("F32", 40, 64, seed=4),
        "layers.1.h": weights("F16", 40, 33, seed=5),
        "count": noise("I64", 8, 4),
        "small": noise("F8_E4M3", 1, 20, 30),
    }


def test_all_states_of_versions_that_change_everything(tmp_path: Path, first: Tensors) -> None:
    """Levels, deltas, opaque deltas, copies that move, other dtypes, carried bytes, folded ways."""
    one = model(tmp_path / "1", first, config='{"a": 1}', tokenizer="words " * 50)
    second = {**first, "embed": moved(first["embed"], 0.02), "count": noise("I64", 8, 5)}
    dtype, shape, data = first["small"]
    second["small"] = (dtype, shape, bytes(b ^ (n % 50 == 0) for n, b in enumerate(data)))
    two = model(tmp_path / "2", second, config='{"a": 2}', tokenizer="words " * 50)
    third = {f"model.{name}": value for name, value in second.items() if name != "layers.1.h"}
    third["model.layers.0.w"] = moved(second["layers.0.w"], 0.3)
    third["new"] = weights("F16", 24, 24, seed=9)
    dtype, shape, data = third["model.layers.1.w"]
    assert dtype == "F32"
    half = b"".join(data[at + 2 : at + 4] for at in range(0, len(data), 4))
    third["model.layers.1.w"] = ("BF16", (shape[1], shape[0]), half)
    three = model(tmp_path / "3", third, config='{"a": 3}', words="words " * 50)
    package = tmp_path / "p"
    publish(one, package)
    publish(two, package)
    publish(three, package, fold=1.0)
    publish(two, package, version="again", anchor=True)
    reader = check(package, tmp_path / "out")
    assert len(reader.releases) == 4
    assert reader.kinds >= {0, 1, 2, 4, 5}
    assert reader.read("v3@exact") == files(three)
    assert reader.read("v3@exact", {"v2@exact": files(two)}) == files(three)
    gc(package, keep=1)
    check(package, tmp_path / "out2")


def test_one_version(tmp_path: Path, first: Tensors) -> None:
    pack(model(tmp_path / "1", first, config="{}"), tmp_path / "p", blob_size=2000)
    assert len(check(tmp_path / "p", tmp_path / "out").releases) == 1


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="makes GGUF files")
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_from_somebody_elses_file(tmp_path: Path, kind: str) -> None:
    from gguf_kit import quantised

    tensors = {
        "model.embed_tokens.weight": weights("BF16", 48, 64, seed=1),
        "model.layers.0.mlp.up_proj.weight": weights("BF16", 32, 64, seed=2),
        "model.norm.weight": weights("F32", 64, seed=3),
    }
    source = model(tmp_path / "1", tensors)
    gguf = quantised(tmp_path / "m.gguf", tensors, kind)
    package = tmp_path / "p"
    pack(source, package, adopt=gguf)
    reader = Reader(package)
    (foreign,) = (state for state, (r, _) in reader.places.items() if r.get("foreign"))
    reader = check(package, tmp_path / "out", {foreign: {"m.gguf": gguf.read_bytes()}})
    assert 6 in reader.kinds


def test_it_notices_what_is_wrong(tmp_path: Path, first: Tensors) -> None:
    """So that agreeing means something."""
    package = tmp_path / "p"
    publish(model(tmp_path / "1", first), package)
    publish(model(tmp_path / "2", {**first, "embed": moved(first["embed"], 0.1)}), package)
    manifest = json.loads((package / "p2u.json").read_text())
    (update,) = (u for u in manifest["updates"] if u["target"] == "v2@exact")
    blob = package / update["blobs"][0]["key"]
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(Malformed, match="digest"):
        Reader(package).read("v2@exact")
    blob.write_bytes(good)
    manifest["releases"][1]["states"][0]["bytes"] += 1
    (package / "p2u.json").write_text(json.dumps(manifest))
    with pytest.raises(Malformed, match="bytes of v2@exact"):
        Reader(package).check_costs()
