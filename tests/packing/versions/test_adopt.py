"""Adopting: from a quantised GGUF or a file of lower precision to the exact model."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf_kit import quantised, values, write_gguf
from manifests import manifest_of
from packing_kit import (
    FLOATS,
    Tensors,
    check_pull,
    content,
    cost,
    model,
    moved,
    weights,
)

from p2u import gc, pack, publish, pull
from p2u.errors import DiskError, FormatError, UsageError
from p2u.names.gguf import gguf_name

gguf = pytest.importorskip("gguf")

#: What gguf's own quantisers can make.
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
#: Most bytes of the update as a part of the BF16 model's.
MOST = {"Q4_0": 0.52, "Q4_1": 0.52, "Q5_0": 0.46, "Q5_1": 0.46, "Q8_0": 0.32}


def original(*, dtype: str = "BF16") -> Tensors:
    """A little model of Llama's kind, without its permuted tensors."""
    tensors: Tensors = {"model.embed_tokens.weight": weights(dtype, 512, 256, seed=1)}
    for layer in (0, 1):
        name = f"model.layers.{layer}"
        tensors |= {
            f"{name}.self_attn.v_proj.weight": weights(dtype, 256, 256, seed=2 + layer),
            f"{name}.self_attn.o_proj.weight": weights(dtype, 256, 256, seed=4 + layer),
            f"{name}.mlp.up_proj.weight": weights(dtype, 512, 256, seed=6 + layer),
            f"{name}.mlp.down_proj.weight": weights(dtype, 256, 512, seed=8 + layer),
            f"{name}.input_layernorm.weight": weights(dtype, 256, seed=10 + layer),
        }
    return tensors


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_quantised_gguf(tmp_path: Path, kind: str) -> None:
    src = model(tmp_path / "model", original(), config="{}", tokenizer="x" * 1000)
    theirs = quantised(tmp_path / f"model-{kind}.gguf", original(), kind)
    package = tmp_path / "p"
    report = pack(src, package, adopt=theirs, jobs=2)
    foreign, own = report.manifest.releases
    assert (foreign.foreign, own.version) == (True, "v1")
    assert [s.label for s in report.states] == ["base", "8bit", "exact"]
    assert len(report.notes) == 1  # who can use the update
    (source,) = (s.id for s in foreign.states)
    size = sum(len(data) for data in content(src).values())
    assert cost(package, source, "v1@exact") < MOST[kind] * size
    before = theirs.read_bytes()
    result = pull(package, tmp_path / "out", origin=theirs)
    assert content(tmp_path / "out") == content(src)
    assert result.fetched < MOST[kind] * size + 4000
    assert theirs.read_bytes() == before
    check_pull(package, src, tmp_path / "new")


@pytest.mark.parametrize("dtype", ["F32", "F16"])
@pytest.mark.parametrize("names", ["llama.cpp", "none", "same"])
def test_names(tmp_path: Path, dtype: str, names: str) -> None:
    tensors = original(dtype=dtype)
    src = model(tmp_path / "model", tensors)
    theirs = quantised(tmp_path / "theirs.gguf", tensors, "Q8_0", names)
    package = tmp_path / "p"
    report = pack(src, package, adopt=theirs, also_base=False)
    assert [s.bytes for s in report.states] == [None]
    assert len(report.notes) == 1
    size = sum(len(data) for data in content(src).values())
    part = {"F32": 0.68, "F16": 0.48}[dtype]
    assert cost(package, "theirs@given", "v1@exact") < part * size
    pull(package, tmp_path / "out", origin=theirs)
    assert content(tmp_path / "out") == content(src)


def test_an_output_that_is_tied(tmp_path: Path) -> None:
    """GGUF has such a matrix once, others twice."""
    tensors = original()
    theirs = quantised(tmp_path / "theirs.gguf", tensors, "Q8_0")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    src = model(tmp_path / "model", tensors)
    report = pack(src, tmp_path / "p", adopt=theirs, also_base=False)
    assert len(report.notes) == 1
    size = sum(len(data) for data in content(src).values())
    assert cost(tmp_path / "p", "theirs@given", "v1@exact") < MOST["Q8_0"] * size


@pytest.mark.parametrize("dtype", ["BF16", "I8"])
def test_many_of_a_kind(tmp_path: Path, dtype: str) -> None:
    """Experts with other names in another order."""
    count = 150

    def expert(n: int) -> tuple[str, tuple[int, ...], bytes]:
        if dtype == "I8":
            return dtype, (16, 40), np.random.default_rng(n).bytes(640)
        return weights(dtype, 16, 40, seed=n)

    first = {f"a.{n}.w": expert(n) for n in range(count)}
    second = {
        f"b.{n}.v": (kind, shape, data[:-2] + b"\1\2")
        for n, (kind, shape, data) in enumerate(reversed(list(first.values())))
    }
    one, two = model(tmp_path / "1", first), model(tmp_path / "2", second)
    pack(one, tmp_path / "p")
    report = pack(two, tmp_path / "p", parent=tmp_path / "p")
    assert report.notes == ()
    assert cost(tmp_path / "p", "v1@exact", "v2@exact") < 0.15 * count * 640
    check_pull(tmp_path / "p", two, tmp_path / "out")


def test_permuted_rows_go_without(tmp_path: Path) -> None:
    """llama.cpp changes the order of the rows of Llama's q and k."""
    tensors = original()
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = weights("BF16", 256, 256, seed=20)
    src = model(tmp_path / "model", tensors)
    arrays = {gguf_name(n): values(tensor) for n, tensor in tensors.items()}
    heads = arrays["blk.0.attn_q.weight"].reshape(4, 2, 32, 256)
    arrays["blk.0.attn_q.weight"] = heads.swapaxes(1, 2).reshape(256, 256).copy()
    theirs = tmp_path / "theirs.gguf"
    write_gguf(theirs, arrays, "Q8_0")
    report = pack(src, tmp_path / "p", adopt=theirs, also_base=False)
    assert any(f"coded alone: {name}. Rows in another order" in note for note in report.notes)
    pull(tmp_path / "p", tmp_path / "out", origin=theirs)
    assert content(tmp_path / "out") == content(src)


LOWER = {
    **FLOATS, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2
}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "lower", "part"),
    [
        ("F32", "F16", 0.45),
        ("F32", "BF16", 0.6),
        ("BF16", "F8_E4M3", 0.34),
        ("F16", "F8_E5M2", 0.6),
    ],
)
def test_from_lower_precision(tmp_path: Path, dtype: str, lower: str, part: float) -> None:
    tensors = original(dtype=dtype)
    src = model(tmp_path / "model", tensors)
    theirs = model(
        tmp_path / "theirs",
        {n: (lower, t[1], values(t).astype(LOWER[lower]).tobytes()) for n, t in tensors.items()},
    )
    package = tmp_path / "p"
    pack(src, package, adopt=theirs / "model.safetensors")
    size = sum(len(data) for data in content(src).values())
    assert cost(package, "model@given", "v1@exact") < part * size
    pull(package, tmp_path / "out", origin=theirs / "model.safetensors")
    assert content(tmp_path / "out") == content(src)


def test_a_package_learns_of_more_files(tmp_path: Path) -> None:
    tensors = original()
    src = model(tmp_path / "model", tensors)
    package = tmp_path / "p"
    pack(src, package)
    for kind in ("Q4_0", "Q8_0"):
        theirs = quantised(tmp_path / f"model-{kind}.gguf", tensors, kind)
        report = pack(src, package, adopt=theirs)
        assert report.version == "v1"
    m = manifest_of(package)
    assert [(r.version, r.foreign) for r in m.releases] == [
        ("model-Q8_0", True), ("model-Q4_0", True), ("v1", False)
    ]  # fmt: skip
    sizes = [cost(package, f"model-{kind}@given", "v1@exact") for kind in ("Q4_0", "Q8_0")]
    assert sizes[1] < sizes[0] < m.state("v1@exact").bytes
    for kind in ("Q4_0", "Q8_0"):
        dst = tmp_path / f"out-{kind}"
        pull(package, dst, origin=tmp_path / f"model-{kind}.gguf")
        assert content(dst) == content(src)
    # Without a base to be had, the way from nothing that is there is used.
    with pytest.raises(UsageError, match="already"):
        pack(src, package, adopt=tmp_path / "model-Q4_0.gguf")


def test_adopted_files_and_later_versions(tmp_path: Path) -> None:
    """The way from the file goes on to the newest version, for as long as there is one."""
    tensors = original()
    src = model(tmp_path / "model", tensors)
    theirs = quantised(tmp_path / "theirs.gguf", tensors, "Q8_0")
    package = tmp_path / "p"
    pack(src, package, adopt=theirs)
    for n in range(3):
        tensors = {name: moved(tensor, 0.02, n) for name, tensor in tensors.items()}
        last = model(tmp_path / f"{n}", tensors)
        publish(last, package)
    plan = pull(package, tmp_path / "out", origin=theirs, dry_run=True).plan
    assert plan is not None
    assert [step.state for step in plan.steps][-1] == "exact"
    assert plan.begin == "theirs@given"
    pull(package, tmp_path / "out", origin=theirs)
    assert content(tmp_path / "out") == content(last)
    assert "theirs" in gc(package, keep=1).kept  # v1 has a base of its own
    pull(package, tmp_path / "again", origin=theirs)
    assert content(tmp_path / "again") == content(last)
    publish(last, package, anchor=True)
    assert gc(package, keep=1, anchors=0).kept == ("v5",)
    check_pull(package, last, tmp_path / "new")


def test_versions_of_a_quantised_file(tmp_path: Path) -> None:
    """Its blocks are coded as changes of the parent's."""
    rng = np.random.default_rng(3)
    arrays = {f"blk.{n}.ffn_up.weight": rng.standard_normal((256, 512)) for n in range(2)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for kind in KINDS:
        one, two = tmp_path / f"1-{kind}.gguf", tmp_path / f"2-{kind}.gguf"
        write_gguf(one, arrays, kind)
        hit = rng.random((256, 512)) < 0.01
        moved = {name: np.where(hit, array * 1.1, array) for name, array in arrays.items()}
        write_gguf(two, moved, kind)
        package = tmp_path / kind
        pack(one, package)
        pack(two, package, parent=package)
        assert cost(package, "v1@exact", "v2@exact") < 0.15 * two.stat().st_size
        pull(package, tmp_path / f"out-{kind}")
        assert list(content(tmp_path / f"out-{kind}").values()) == [two.read_bytes()]


def test_scales_beside_the_weights_are_not_known(tmp_path: Path) -> None:
    """Floats of 8 bits that are to be multiplied: alike, but of no use, and so not used."""
    tensors = original()
    src = model(tmp_path / "model", tensors)
    scaled = {
        n: ("F8_E4M3", t[1], (values(t) * 300).astype(LOWER["F8_E4M3"]).tobytes())
        for n, t in tensors.items()
    }
    theirs = model(tmp_path / "theirs", scaled)
    report = pack(src, tmp_path / "p", adopt=theirs, also_base=False)
    alone = pack(src, tmp_path / "alone", levels=("base", "exact")).states[-1].bytes
    assert cost(tmp_path / "p", "theirs@given", "v1@exact") < 1.05 * alone
    assert report.version == "v1"
    pull(tmp_path / "p", tmp_path / "out", origin=theirs)
    assert content(tmp_path / "out") == content(src)


def test_what_does_not_fit(tmp_path: Path) -> None:
    src = model(tmp_path / "model", original())
    other = quantised(tmp_path / "other.gguf", {"w": weights("BF16", 512, 256, seed=77)}, "Q4_0")
    with pytest.raises(UsageError, match=r"no tensor of it \(Q4_0\) is like one"):
        pack(src, tmp_path / "p", adopt=other)
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    with pytest.raises(FormatError):
        pack(src, tmp_path / "p", adopt=text)
    with pytest.raises(DiskError, match="no such"):
        pack(src, tmp_path / "p", adopt=tmp_path / "none.gguf")
    with pytest.raises(UsageError, match="both"):
        pack(src, tmp_path / "p", adopt=other, parent=src)
    assert not (tmp_path / "p").exists()


def test_the_same_model_from_its_own_precision_is_known(tmp_path: Path) -> None:
    """NaNs and infinities, which no quantiser keeps, come back."""
    tensors = original()
    name = "model.layers.1.mlp.up_proj.weight"
    array = values(tensors[name]).astype(ml_dtypes.bfloat16)
    clean = {n: values(tensor) for n, tensor in tensors.items()}
    array[3, 5], array[7, 9], array[0, 0] = np.nan, np.inf, -0.0
    tensors[name] = ("BF16", (512, 256), array.tobytes())
    src = model(tmp_path / "model", tensors)
    theirs = tmp_path / "theirs.gguf"
    write_gguf(theirs, {gguf_name(n): a for n, a in clean.items()}, "Q5_1")
    pack(src, tmp_path / "p", adopt=theirs)
    pull(tmp_path / "p", tmp_path / "out", origin=theirs)
    assert content(tmp_path / "out") == content(src)


@pytest.mark.parametrize(
    ("theirs", "llama"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.11.self_attn.q_proj.bias", "blk.11.attn_q.bias"),
        ("model.norm.weight", "output_norm.weight"),
        ("bert.encoder.layer.3.output.dense.weight", "blk.3.ffn_down.weight"),
        ("encoder.layer.3.attention.output.dense.weight", "blk.3.attn_output.weight"),
        ("embeddings.LayerNorm.bias", "token_embd_norm.bias"),
        ("transformer.h.0.mlp.c_fc.weight", "blk.0.ffn_up.weight"),
        ("blk.3.ffn_down.weight", "blk.3.ffn_down.weight"),
        ("something.else", "something.else"),
    ],
)
def test_names_of_llama_cpp(theirs: str, llama: str) -> None:
    assert gguf_name(theirs) == llama
