"""Packing: every state is what the manifest says, the last is the model, and bytes repeat."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
from packing_kit import (
    FLOATS,
    Tensors,
    check_exact,
    decode,
    safetensors,
    snapshot,
    tensor_bytes,
    weights,
)

from p2u.disk import files
from p2u.packing.api import pack
from p2u.packing.chunking.treatment import treatment
from p2u.packing.levels import state_hashes
from p2u.packing.report import PackProgress, PackReport


def test_round_trip(model: Path, packed: tuple[PackReport, Path]) -> None:
    report, dst = packed
    opened = decode(dst)
    check_exact(opened, model)
    assert opened.manifest == report.manifest
    assert opened.manifest.name == "small model"
    assert [s.id for s in opened.manifest.states] == ["v1@base", "v1@8bit", "v1@exact"]
    # Carried files and tensors without levels are exact from the base on.
    by_path = {f.path: f for f in opened.manifest.latest.files}
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


def test_more_levels(model: Path, packed: tuple[PackReport, Path], tmp_path: Path) -> None:
    labels = ("base", "6bit", "8bit", "10bit", "exact")
    report = pack(model, tmp_path / "p", levels=labels)
    assert tuple(s.label for s in report.states) == labels
    opened = decode(tmp_path / "p")
    check_exact(opened, model)
    usual = packed[0].states
    assert opened.states[0] == decode(packed[1]).states[0]
    base, six, eight, ten = (s.snr_db or 0.0 for s in report.states[:-1])
    # Each halving of the step brings 6 dB.
    assert six - base == pytest.approx(12, abs=1.5)
    assert eight - six == pytest.approx(12, abs=1.5)
    assert eight + 6 < ten
    assert eight == pytest.approx(usual[1].snr_db, abs=0.1)
    assert report.states[0].bytes == usual[0].bytes
    for finer, coarser in zip(report.states[1:-1], report.states, strict=False):
        assert finer.bits - coarser.bits == pytest.approx(2, abs=0.3)


def test_levels_that_are_far_apart(model: Path, tmp_path: Path) -> None:
    """The first update brings eleven halvings at most: the level is coarser than its label."""
    report = pack(model, tmp_path / "p", levels=("base", "19bit", "exact"))
    check_exact(decode(tmp_path / "p"), model)
    fifteen = pack(model, tmp_path / "q", levels=("base", "15bit", "exact"))
    assert report.states[1].snr_db == fifteen.states[1].snr_db


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


@pytest.mark.parametrize("jobs", [1, 4])
def test_bytes_do_not_depend_on_jobs(
    model: Path, packed: tuple[PackReport, Path], tmp_path: Path, jobs: int
) -> None:
    pack(model, tmp_path / "p", jobs=jobs)
    assert snapshot(tmp_path / "p") == snapshot(packed[1])


class Reads:
    """Counts how often each byte of some files is read from the disk."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts = {
            str(p): np.zeros(p.stat().st_size, np.int64) for p in root.rglob("*") if p.is_file()
        }
        self.on = False
        reads = self

        class Counting(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                start = self.tell()
                count = super().readinto(buffer)
                if reads.on and str(self.name) in reads.counts:
                    reads.counts[str(self.name)][start : start + count] += 1
                return count

        monkeypatch.setattr(files, "open_file", Counting)


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_byte_of_the_model_is_read_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    reads = Reads(model, monkeypatch)

    def progress(p: PackProgress) -> None:
        # Before this, the header was scanned and a sample was measured.
        reads.on = reads.on or (p.phase == "measure" and p.done == p.total)

    pack(model, tmp_path / "p", jobs=jobs, progress=progress)
    assert sum(map(len, reads.counts.values())) > 100_000
    for path, counts in reads.counts.items():
        assert (counts == 1).all(), path


def test_little_memory_for_hashing_is_enough(
    model: Path, tmp_path: Path, packed: tuple[PackReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of many tensors are dropped and decoded again, over and over.
    monkeypatch.setattr(state_hashes, "KEEP", 1)
    pack(model, tmp_path / "p", jobs=2)
    assert snapshot(tmp_path / "p") == snapshot(packed[1])


def test_a_single_file(model: Path, tmp_path: Path) -> None:
    # The package may lie beside the file.
    src = tmp_path / "some.safetensors"
    src.write_bytes((model / "model.safetensors").read_bytes())
    pack(str(src), str(tmp_path / "p"), levels=["base", "exact"], name="my name")
    opened = decode(tmp_path / "p")
    assert opened.manifest.name == "my name"
    assert [f.path for f in opened.manifest.latest.files] == ["some.safetensors"]
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


def test_a_plain_model_is_packed_without_numpy(tmp_path: Path) -> None:
    """Loading it takes longer than packing a small model."""
    safetensors(tmp_path / "m.safetensors", {"w": weights("BF16", 64, 64)})
    code = "import sys, p2u; p2u.pack(sys.argv[1], sys.argv[2]); print('numpy' in sys.modules)"
    assert kit.run_python(code, tmp_path / "m.safetensors", tmp_path / "p").strip() == "False"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("jobs", [2, 8])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, jobs: int) -> None:
    """What is in flight is bounded; how full it is depends on what else the machine does."""
    code = "import sys, p2u; p2u.pack(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]))"
    tensor = weights("F32", 1024, 1024)
    src = tmp_path / "m.safetensors"
    # Not in the order of a forward pass: 0, 1, 10, ...
    names = sorted(f"layers.{n}.w" for n in range(96))
    safetensors(src, dict.fromkeys(names, tensor))
    peak = int(kit.run_python(code + kit.PRINT_PEAK, src, tmp_path / "p", jobs)) / (1 << 20)
    assert peak <= 264  # MiB, with the interpreter; of 384 MiB of tensors
