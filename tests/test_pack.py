"""Packing: every state is what the manifest says, the last is the model, and bytes repeat."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2u import core
from p2u.errors import DiskError, FormatError, IntegrityError, P2UError, UsageError
from p2u.index import Chunk, decode_pieces, parse_index
from p2u.layout import Layout, parse_layout
from p2u.manifest import Manifest, parse_manifest
from p2u.pack import PackProgress, PackReport, blobs, pack, verify
from p2u.recipe import row_length, treatment

FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def safetensors(path: Path, tensors: Tensors, **metadata: str) -> None:
    """Write a file; tensors lie in the order of the dict."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def weights(dtype: str, *shape: int, seed: int = 0) -> tuple[str, tuple[int, ...], bytes]:
    """Normal weights, each row with a scale of its own."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape) * 0.05
    if len(shape) > 1:
        values *= np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
    return dtype, shape, values.astype(FLOATS[dtype]).tobytes()


def noise(dtype: str, item: float, *shape: int) -> tuple[str, tuple[int, ...], bytes]:
    rng = np.random.default_rng([7, *shape])
    return dtype, shape, rng.bytes(int(math.prod(shape) * item))


@dataclass
class Opened:
    """A package, decoded step by step."""

    folder: Path
    manifest: Manifest
    layout: Layout
    chunks: list[tuple[Chunk, ...]]
    states: list[list[bytes]]


def object_bytes(folder: Path, key: str, size: int, sha256: str) -> bytes:
    data = (folder / key).read_bytes()
    assert len(data) == size
    assert hashlib.sha256(data).hexdigest() == sha256
    return data


def decode(folder: Path) -> Opened:
    """All states of a package, checked against the manifest; the slow and plain way."""
    manifest = parse_manifest((folder / "p2u.json").read_bytes())
    stored = object_bytes(folder, manifest.layout.key, manifest.layout.size, manifest.layout.sha256)
    layout = parse_layout(stored, manifest)
    opened = Opened(folder, manifest, layout, [], [])
    files = [bytearray(os.urandom(f.size)) for f in manifest.files]
    used = {"p2u.json", manifest.layout.key}
    for number, update in enumerate(manifest.updates):
        index = update.index
        data = object_bytes(folder, index.key, index.size, index.sha256)
        chunks = parse_index(data, update, layout, manifest)
        opened.chunks.append(chunks)
        content = [(folder / b.key).read_bytes() for b in update.blobs]
        assert [len(c) for c in content] == [b.size for b in update.blobs]
        used |= {index.key, *(b.key for b in update.blobs)}
        for c in chunks:
            payload = content[c.blob][c.start : c.start + c.length]
            assert hashlib.sha256(payload).digest() == c.sha256
            apply(layout, files, c, payload)
        for entry, file in zip(manifest.files, files, strict=True):
            assert hashlib.sha256(file).hexdigest() == entry.digest(number), entry.path
        opened.states.append([bytes(f) for f in files])
    assert used == {p.name for p in folder.iterdir()}
    return opened


def apply(layout: Layout, files: list[bytearray], chunk: Chunk, payload: bytes) -> None:
    if chunk.pieces:
        data = decode_pieces(payload, chunk.pieces, "blob")
        for p in chunk.pieces:
            files[p.file][p.offset : p.offset + p.size] = data[: p.size]
            data = data[p.size :]
        return
    segments = []
    for seg in chunk.segments:
        t = layout.tensors[seg.tensor]
        first, elems = t.span(seg.first_row, seg.rows)
        start = t.offset + first * t.item
        view = memoryview(files[t.file])[start : start + elems * t.item]
        segments.append(core.Segment(view, elems, t.cols))
    core.apply(payload, t.dtype, t.item, segments)


def check_exact(opened: Opened, src: Path) -> None:
    """The last state is the model, file by file."""
    expected = {
        p.relative_to(src).as_posix(): p.read_bytes() for p in src.rglob("*") if p.is_file()
    }
    got = dict(zip((f.path for f in opened.manifest.files), opened.states[-1], strict=True))
    assert got == expected


def tensor_bytes(opened: Opened, state: int, name: str) -> bytes:
    t = next(t for t in opened.layout.tensors if t.name == name)
    return opened.states[state][t.file][t.offset : t.offset + t.length]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory with a bit of everything, not in a forward pass's order."""
    root = tmp_path_factory.mktemp("models") / "small model"
    (root / "1_Pooling").mkdir(parents=True)
    (root / "config.json").write_text('{"a": 1}')
    (root / "empty.txt").write_bytes(b"")
    (root / "1_Pooling" / "config.json").write_text("{}" * 100)
    tensors: Tensors = {}
    for layer in (1, 10, 2):
        tensors[f"layers.{layer}.norm.weight"] = weights("F32", 96, seed=layer)
        tensors[f"layers.{layer}.mlp.weight"] = weights("F32", 96, 64, seed=layer)
        tensors[f"layers.{layer}.conv.weight"] = weights("BF16", 24, 1, 3, 3, seed=layer)
        tensors[f"layers.{layer}.count"] = noise("I64", 8)
    tensors["embed.weight"] = weights("F16", 400, 64)
    tensors["head.weight"] = weights("BF16", 128, 257)
    tensors["mask"] = ("BOOL", (50,), bytes([0, 1] * 25))
    tensors["nothing"] = ("F32", (0, 8), b"")
    safetensors(root / "model.safetensors", tensors, format="pt")
    return root


@pytest.fixture(scope="module")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PackReport, Path]:
    dst = tmp_path_factory.mktemp("packages") / "p"
    return pack(model, dst, jobs=2), dst


def test_round_trip(model: Path, packed: tuple[PackReport, Path]) -> None:
    report, dst = packed
    opened = decode(dst)
    check_exact(opened, model)
    assert opened.manifest == report.manifest
    assert opened.manifest.name == "small model"
    assert [s.id for s in opened.manifest.states] == ["v1@base", "v1@8bit", "v1@exact"]
    # Carried files and tensors without levels are exact from the base on.
    by_path = {f.path: f for f in opened.manifest.files}
    assert len(by_path["config.json"].sha256) == 1
    assert len(by_path["model.safetensors"].sha256) == 3
    for name in ("mask", "layers.1.norm.weight", "layers.10.count"):
        assert tensor_bytes(opened, 0, name) == tensor_bytes(opened, 2, name)
    assert tensor_bytes(opened, 0, "embed.weight") != tensor_bytes(opened, 1, "embed.weight")


def test_states_get_better_as_the_report_says(packed: tuple[PackReport, Path]) -> None:
    report, dst = packed
    opened = decode(dst)
    signal = 0.0
    noise_ = [0.0] * 3
    for t in opened.layout.tensors:
        if treatment(t.dtype, t.shape, t.elems).value != "progressive":
            continue
        values = [
            np.frombuffer(tensor_bytes(opened, s, t.name), FLOATS[t.dtype]).astype(np.float64)
            for s in range(3)
        ]
        signal += float(np.sum(values[2] ** 2))
        for s in range(3):
            noise_[s] += float(np.sum((values[s] - values[2]) ** 2))
    base, eight, exact = report.states
    assert base.snr_db == pytest.approx(10 * math.log10(signal / noise_[0]), abs=0.02)
    assert eight.snr_db == pytest.approx(10 * math.log10(signal / noise_[1]), abs=0.02)
    assert base.snr_db is not None
    assert eight.snr_db is not None
    assert 15 < base.snr_db < eight.snr_db - 20
    assert exact.snr_db is None
    assert noise_[2] == 0
    assert base.bits < eight.bits < exact.bits
    assert [s.bytes for s in report.states] == [s.bytes for s in report.manifest.states]
    size = sum(p.stat().st_size for p in dst.iterdir())
    assert exact.bytes == size - (dst / "p2u.json").stat().st_size
    assert exact.fraction == exact.bytes / report.source_bytes


def test_chunks_come_in_the_order_of_use(packed: tuple[PackReport, Path]) -> None:
    opened = decode(packed[1])
    base, eight, exact = opened.chunks
    kinds = []
    for c in base:
        t = opened.layout.tensors[c.segments[0].tensor] if c.segments else None
        kinds.append("piece" if t is None else treatment(t.dtype, t.shape, t.elems).value)
    first = kinds.index("progressive")
    assert set(kinds[first:]) == {"progressive"}
    assert set(kinds[: kinds.count("piece")]) == {"piece"}
    names = [opened.layout.tensors[s.tensor].name for c in base[first:] for s in c.segments]
    assert names[0] == "embed.weight"
    mlps = [n for n in names if "mlp" in n]
    assert mlps == [f"layers.{n}.mlp.weight" for n in (1, 2, 10)]
    cuts = [c.segments for c in base[first:]]
    assert [c.segments for c in eight] == [c.segments for c in exact]
    # A few small weights may be as small exact; they have no levels then.
    later = [c.segments for c in eight]
    assert later == [segs for segs in cuts if segs in later]
    gone = {opened.layout.tensors[s.tensor].name for c in cuts if c not in later for s in c}
    assert all("conv" in name for name in gone)


@pytest.mark.parametrize("jobs", [1, 3])
def test_bytes_do_not_depend_on_jobs(
    model: Path, packed: tuple[PackReport, Path], tmp_path: Path, jobs: int
) -> None:
    pack(model, tmp_path / "p", jobs=jobs)
    assert snapshot(tmp_path / "p") == snapshot(packed[1])


def test_a_single_file(model: Path, tmp_path: Path) -> None:
    # The package may lie beside the file.
    src = tmp_path / "some.safetensors"
    src.write_bytes((model / "model.safetensors").read_bytes())
    pack(str(src), str(tmp_path / "p"), levels=["base", "exact"], name="my name")
    opened = decode(tmp_path / "p")
    assert opened.manifest.name == "my name"
    assert [f.path for f in opened.manifest.files] == ["some.safetensors"]
    assert [s.label for s in opened.manifest.states] == ["base", "exact"]
    assert opened.states[-1] == [src.read_bytes()]
    assert pack(src, tmp_path / "q").manifest.name == "some"


def test_shards(tmp_path: Path) -> None:
    root = tmp_path / "m"
    root.mkdir()
    shards = {"w.0": weights("BF16", 70, 50), "w.1": weights("BF16", 70, 50, seed=1)}
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for n, (name, tensor) in enumerate(shards.items()):
        file = f"model-{n + 1:05d}-of-00002.safetensors"
        safetensors(root / file, {name: tensor, f"b.{n}": weights("BF16", 50)})
        index["weight_map"] |= {name: file, f"b.{n}": file}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    # Both shards' weights share a chunk.
    assert [len(c.segments) for c in opened.chunks[-1]] == [2]


def special(dtype: str) -> bytes:
    """All 16-bit patterns; for F32 those above two kinds of low bits."""
    top = np.arange(1 << 16, dtype=np.uint32)
    if dtype != "F32":
        return top.astype(np.uint16).tobytes()
    return np.concatenate([top << 16, top << 16 | 0xBEEF]).astype(np.uint32).tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_float_survives(tmp_path: Path, dtype: str) -> None:
    data = special(dtype)
    elems = len(data) // {"F32": 4}.get(dtype, 2)
    mixed = bytearray(weights(dtype, 256, 128)[2])
    mixed[100 : 100 + 64] = data[-64:]  # NaNs among weights
    zeros = bytearray(weights(dtype, 64, 128)[2])
    zeros[0 : len(zeros) // 2] = bytes(len(zeros) // 2)
    tensors: Tensors = {
        "patterns": (dtype, (elems // 64, 64), data),
        "full": (dtype, (elems,), data),
        "mixed": (dtype, (256, 128), bytes(mixed)),
        "pruned": (dtype, (64, 128), bytes(zeros)),
        "zeros": (dtype, (64, 64), bytes(64 * 64 * len(data) // elems)),
        "scalar": weights(dtype),
        "one": weights(dtype, 1, 1),
        "tall": weights(dtype, 100, 1),
        "wide": weights(dtype, 1, 100),
        "odd": weights(dtype, 7, 11, 13),
        "none": (dtype, (0,), b""),
        "none too": (dtype, (3, 0, 2**40), b""),
    }
    root = tmp_path / "m"
    root.mkdir()
    safetensors(root / "m.safetensors", tensors)
    pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    # What is zero is zero in every state.
    for state in range(3):
        values = np.frombuffer(tensor_bytes(opened, state, "pruned"), FLOATS[dtype])
        assert not values[: 32 * 128].any()
        assert values[32 * 128 :].any()


def test_other_dtypes_are_carried(tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{dtype}.{n}": noise(dtype, item, *shape)
        for n, shape in enumerate([(), (0, 3), (7,), (3, 5, 8), (300, 300)])
        for dtype, item in [
            *(("F64", 8), ("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1), ("U64", 8), ("U32", 4)),
            *(("U16", 2), ("U8", 1), ("BOOL", 1), ("C64", 8), ("F8_E4M3", 1), ("F8_E5M2", 1)),
            *(("UNKNOWN24", 3), ("UNKNOWN256", 32)),
        ]
    }
    tensors["f4"] = noise("F4", 0.5, 6, 6)
    root = tmp_path / "m"
    root.mkdir()
    safetensors(root / "m.safetensors", tensors)
    report = pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    assert opened.states[0] == opened.states[-1]
    assert [u.chunks for u in opened.manifest.updates][1:] == [0, 0]
    assert [s.snr_db for s in report.states] == [None] * 3
    assert report.states[-1].fraction < 1.02
    assert {t.dtype: t.item for t in opened.layout.tensors}["UNKNOWN24"] == 3


def test_floats_that_levels_do_not_pay_for_go_opaque(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    # 16 values all over the range: 4 bits each to an opaque coder, anything to a quantiser.
    values = rng.integers(0, 1 << 32, 16, dtype=np.uint32)
    data = values[rng.integers(0, 16, 300 * 300)].tobytes()
    root = tmp_path / "m"
    root.mkdir()
    safetensors(root / "m.safetensors", {"w": ("F32", (300, 300), data)})
    report = pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    assert [u.chunks for u in opened.manifest.updates] == [2, 0, 0]
    assert report.states[0].fraction < 0.75
    assert report.states[0].snr_db is None


@pytest.mark.parametrize(("dead", "opaque"), [(25, False), (150, True)])
def test_levels_may_cost_a_little(tmp_path: Path, dead: int, opaque: bool) -> None:
    # Channels that training has let die: so far below the step that each weight is an exception.
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((256, 512)).astype(np.float32)
    weights[:, :dead] *= np.exp2(-rng.uniform(40, 110, (256, dead))).astype(np.float32)
    safetensors(tmp_path / "m.safetensors", {"w": ("F32", (256, 512), weights.tobytes())})
    report = pack(tmp_path / "m.safetensors", tmp_path / "p", jobs=1)
    base, total = report.states[0].fraction, report.states[-1].fraction
    assert (report.manifest.updates[1].chunks == 0) is opaque
    assert opaque or (base < 0.12 and 0.88 < total < 0.91)


def test_large_tensors_are_cut_evenly(tmp_path: Path) -> None:
    root = tmp_path / "m"
    root.mkdir()
    tensors: Tensors = {
        "big": ("I8", (1200, 2000), bytes(1200 * 2000)),
        "flat": ("U8", (3_000_001,), bytes(3_000_001)),
        "w": weights("BF16", 1030, 1024),
    }
    safetensors(root / "m.safetensors", tensors)
    (root / "carried.bin").write_bytes(b"ab" * (5 << 20))
    pack(root, tmp_path / "p")
    opened = decode(tmp_path / "p")
    check_exact(opened, root)
    elems: dict[str, list[int]] = {}
    for c in opened.chunks[0]:
        for s in c.segments:
            t = opened.layout.tensors[s.tensor]
            elems.setdefault(t.name, []).append(t.span(s.first_row, s.rows)[1])
    assert [len(elems[name]) for name in ("big", "flat", "w")] == [3, 3, 2]
    for sizes in elems.values():
        assert max(sizes) <= 1 << 20
        assert max(sizes) - min(sizes) < 8192
    # A large carried file comes last, in pieces.
    last = [p.size for c in opened.chunks[0][-3:] for p in c.pieces]
    assert last == [4 << 20, 4 << 20, 2 << 20]


def test_blob_size(model: Path, tmp_path: Path, packed: tuple[PackReport, Path]) -> None:
    pack(model, tmp_path / "p", blob_size=1000)
    opened = decode(tmp_path / "p")
    assert opened.states == decode(packed[1]).states
    for update, chunks in zip(opened.manifest.updates, opened.chunks, strict=True):
        alone = {c.blob for c in chunks if c.length > 1000}
        assert all(b.size <= 1000 or n in alone for n, b in enumerate(update.blobs))
        assert all(sum(c.blob == n for c in chunks) == 1 for n in alone)


@pytest.mark.parametrize("bits", [2.5, 3.5, 5])
def test_bits(tmp_path: Path, bits: float) -> None:
    root = tmp_path / "m"
    root.mkdir()
    tensors = {f"w{n}": weights("BF16", 512, 512, seed=n) for n in range(2)}
    safetensors(root / "m.safetensors", tensors)
    report = pack(root, tmp_path / "p", bits=bits, levels=["base", "exact"])
    assert bits - 0.06 < report.states[0].bits <= bits + 0.02


def test_progress(model: Path, tmp_path: Path) -> None:
    seen: list[PackProgress] = []
    report = pack(model, tmp_path / "p", progress=seen.append)
    phases = list(dict.fromkeys(p.phase for p in seen))
    assert phases == ["measure", "encode", "verify", "publish"]
    for phase in phases:
        done = [p.done for p in seen if p.phase == phase]
        assert done == sorted(done)
        assert done[-1] == report.source_bytes
        assert {p.total for p in seen} == {report.source_bytes}


def stop(at: str) -> Any:
    def progress(p: PackProgress) -> None:
        if p.phase == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("phase", ["measure", "encode", "verify", "publish"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_interrupted_leaves_nothing(
    model: Path, tmp_path: Path, phase: str, jobs: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(model, tmp_path / "p", jobs=jobs, progress=stop(phase))
    assert list(tmp_path.iterdir()) == []


def test_an_older_package_is_replaced_at_the_end(model: Path, tmp_path: Path) -> None:
    dst = tmp_path / "p"
    pack(model, dst, bits=3)
    before = snapshot(dst)
    with pytest.raises(KeyboardInterrupt):
        pack(model, dst, progress=stop("publish"))
    assert snapshot(dst) == before
    pack(model, dst)
    assert snapshot(dst) != before
    check_exact(decode(dst), model)
    assert list(tmp_path.iterdir()) == [dst]


def test_an_empty_directory_and_missing_parents_do(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pack(model, tmp_path / "empty")
    pack(model, tmp_path / "a" / "b" / "c")
    check_exact(decode(tmp_path / "a" / "b" / "c"), model)
    mode = (tmp_path / "empty").stat().st_mode & 0o777
    assert mode == (tmp_path / "a").stat().st_mode & 0o777  # readable for a web server


def test_foreign_directories_are_left_alone(model: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("precious")
    file = tmp_path / "file"
    file.write_text("precious")
    package = tmp_path / "package"
    pack(model, package)
    (package / "mine.txt").write_text("precious")
    other = tmp_path / "other"
    other.mkdir()
    (other / "p2u.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for dst, match in [
        (full, "not empty"),
        (file, "is a file"),
        (package, "mine.txt"),
        (other, "cannot be read"),
        (model, "outside"),
        (model / "sub", "outside"),
        (model.parent, "outside"),
    ]:
        with pytest.raises(UsageError, match=match):
            pack(model, dst)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (model / "sub").exists()


def test_arguments(model: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"bits": 0.5},
        {"bits": 9},
        {"bits": math.nan},
        {"levels": ["base"]},
        {"levels": ["exact", "base"]},
        {"levels": ["base", "4bit", "exact"]},
        {"levels": []},
        {"jobs": 0},
        {"blob_size": 0},
        {"name": "\ud800"},
    ]
    for arguments in wrong:
        with pytest.raises(UsageError):
            pack(model, tmp_path / "p", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        pack(tmp_path / "missing", tmp_path / "p")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FormatError, match="no model file"):
        pack(empty, tmp_path / "p")
    safetensors(empty / "a.safetensors", {})
    with pytest.raises(FormatError, match="no tensors"):
        pack(empty, tmp_path / "p")
    safetensors(empty / "a.safetensors", {"w": weights("F32", 64, 64)})
    (empty / ".p2u").mkdir()
    pack(empty, tmp_path / "p")  # hidden names are not part of a model
    (empty / "A.safetensors").write_bytes((empty / "a.safetensors").read_bytes())
    if len(list(empty.glob("?.safetensors"))) == 2:  # the file system tells case
        with pytest.raises(FormatError, match="same on some systems"):
            pack(empty, tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_a_truncated_model(model: Path, tmp_path: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    src = tmp_path / "m.safetensors"
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        src.write_bytes(data[:length])
        with pytest.raises(P2UError) as caught:
            pack(src, tmp_path / "p")
        assert "m.safetensors" in str(caught.value)
    assert list(tmp_path.iterdir()) == [src]


@pytest.mark.parametrize("phase", ["measure", "encode", "verify"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_model_that_changes_meanwhile(tmp_path: Path, phase: str, cut: bool) -> None:
    src = tmp_path / "m.safetensors"
    safetensors(src, {f"w{n}": weights("F32", 1024, 600, seed=n) for n in range(3)})
    data = bytearray(src.read_bytes())
    data[-2] ^= 0x7F

    def change(p: PackProgress) -> None:
        if p.phase == phase:
            src.write_bytes(data[: len(data) // (2 if cut else 1)])

    def run() -> None:
        pack(src, tmp_path / "p", jobs=1, progress=change)

    if phase != "verify" and not cut:
        run()  # the last tensor was not read yet: it is the changed model that is packed
        assert decode(tmp_path / "p").states[-1] == [bytes(data)]
        return
    # The reports come while the last tensor is still to be read.
    with pytest.raises(IntegrityError, match="ended at" if cut else "does not decode"):
        run()
    assert list(tmp_path.iterdir()) == [src]


def test_what_does_not_decode_is_not_published(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = blobs.BlobWriter.add

    def damaged(self: blobs.BlobWriter, payload: bytes) -> tuple[int, int]:
        bad = bytearray(payload)
        bad[len(bad) // 2] ^= 1
        return add(self, bytes(bad))

    monkeypatch.setattr(blobs.BlobWriter, "add", damaged)
    for jobs in (1, 2):
        with pytest.raises((IntegrityError, FormatError)):
            pack(model, tmp_path / "p", jobs=jobs)
    assert list(tmp_path.iterdir()) == []


def test_little_memory_for_hashing_is_enough(
    model: Path, tmp_path: Path, packed: tuple[PackReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of many tensors are dropped and decoded again, over and over.
    monkeypatch.setattr(verify, "KEEP", 1)
    pack(model, tmp_path / "p", jobs=2)
    assert snapshot(tmp_path / "p") == snapshot(packed[1])


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DiskError, match="No space left") as caught:
        pack(model, tmp_path / "p")
    assert "disk space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_is_full_when_the_buffer_is_flushed(tmp_path: Path) -> None:
    (tmp_path / "x-000.bin").symlink_to("/dev/full")
    writer = blobs.BlobWriter(tmp_path, "y", 100)
    writer.add(b"1")
    writer.close()
    with pytest.raises(DiskError, match="File exists"):
        blobs.BlobWriter(tmp_path, "x", 100).add(b"1")


def test_no_permission(model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(DiskError, match=r"[Pp]ermission"):
        pack(model, locked / "p")


# Not getrusage: that begins at what the parent had when it forked.
MEMORY = """
import sys
from p2u.pack import pack
pack(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]))
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("jobs", [2, 8])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, jobs: int) -> None:
    peaks = []
    source = str(Path(__file__).resolve().parent.parent / "src")
    for count in (16, 48):  # the smaller one fills what is in flight, too
        src = tmp_path / f"{count}.safetensors"
        tensor = weights("F32", 1024, 1024)
        # Not in the order of a forward pass: 0, 1, 10, ...
        names = sorted(f"layers.{n}.w" for n in range(count))
        safetensors(src, dict.fromkeys(names, tensor))
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, src, tmp_path / f"p{count}", str(jobs)],
            env={**os.environ, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
    tensor_mib = 4
    assert max(peaks) <= 2 * tensor_mib + 256
    # 128 MiB of tensors more; threads and the allocator differ by some from run to run.
    assert peaks[1] - peaks[0] <= 60


@settings(max_examples=15)
@given(st.data())
def test_any_small_model(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "m").mkdir()
    tensors: Tensors = {}
    for n in range(data.draw(st.integers(1, 4))):
        dtype = data.draw(st.sampled_from([*FLOATS, "I16", "F64"]))
        shape = tuple(data.draw(st.lists(st.integers(0, 12), max_size=3)))
        size = math.prod(shape) * {"F32": 4, "F64": 8}.get(dtype, 2)
        unit = data.draw(st.binary(min_size=1, max_size=40))
        name = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
        tensors[f"{name}{n}"] = (dtype, shape, (unit * (size // len(unit) + 1))[:size])
    safetensors(root / "m" / "m.safetensors", tensors)
    if not any(shape is not None for _, shape, _ in tensors.values()):
        return
    pack(root / "m", root / "p", jobs=1, bits=data.draw(st.sampled_from([1, 3.5, 6])))
    check_exact(decode(root / "p"), root / "m")


# --- the recipe


@pytest.mark.parametrize(
    ("shape", "cols"),
    [
        ((1536, 384), 384),
        ((32, 1, 3, 3), 9),
        ((64, 32), 32),
        ((100, 1), 8),
        ((16, 3, 7, 7), 147),
        ((2, 1 << 18), 1 << 18),
        ((2, (1 << 18) + 1), 1 << 16),
        ((3, 3, 3), 27),
    ],
)
def test_rows(shape: tuple[int, ...], cols: int) -> None:
    elems = math.prod(shape)
    if elems < 64:
        assert treatment("BF16", shape, elems).value == "full"
        assert row_length(shape, elems, treatment("BF16", shape, elems)) == elems
    else:
        assert row_length(shape, elems, treatment("BF16", shape, elems)) == cols
