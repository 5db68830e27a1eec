"""Checksums in files: put together from those of parts."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.formats import ScannedModel
from p2u.package.geometry import Piece, Seg, chunk_spans
from p2u.packing.allocation.allocate import Allocation
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.crc import combine
from p2u.packing.chunking.cut import Job, cut, make_layout
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.recipe import Recipe
from p2u.packing.settings import CHUNK_ELEMENTS
from p2u.types import Check, ModelFile, TensorSpan


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_parts_add_up(parts: list[bytes]) -> None:
    total = 0
    for part in parts:
        total = combine(total, zlib.crc32(part), len(part))
    assert total == zlib.crc32(b"".join(parts))


@pytest.mark.parametrize("size", [2**20, 2**32 + 5, 2**40])
def test_long_parts(size: int) -> None:
    # Behind n zeros: the same as twice behind n / 2 of them.
    zeros = zlib.crc32(bytes(1 << 20))
    half = combine(combine(zeros, 0, size), 0, size)
    assert combine(zeros, 0, 2 * size) == half
    if size == 2**20:
        # A sum of 0 for nothing: combine(x, crc(zeros), n) is crc(x + zeros).
        assert combine(zlib.crc32(b"x"), zeros, size) == zlib.crc32(b"x" + bytes(size))


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def model(root: Path, data: bytes, *checks: Check) -> ScannedModel:
    """A file of 100 bytes with the tensors 20:40 and 40:60."""
    (root / "f").write_bytes(data)
    spans = tuple(TensorSpan(f"t{n}", "F32", (5,), "f", n, 20) for n in (20, 40))
    return ScannedModel(str(root), (ModelFile("f", 100, spans, checks),))


def test_fields_have_the_values_of_each_state(tmp_path: Path) -> None:
    content = bytearray(range(100))
    content[4:8] = content[90:94] = crc(content[10:50])
    content[60:64] = crc(content[64:70])  # of no tensor
    content[80:84] = b"odd "  # not the sum of what it is said to be of
    found = model(
        tmp_path,
        bytes(content),
        Check("crc32", 10, 40, (90, 4)),
        Check("crc32", 64, 6, (60,)),
        Check("crc32", 50, 10, (80,)),
    )
    layout = make_layout(found, lambda _: False)
    stored = StoredModel(found, layout)
    checks = Checks(found.files, layout)
    states = [bytearray(content) for _ in range(3)]
    states[0][20:60] = bytes(40)
    states[1][30:45] = bytes(15)
    # Two tensors in one chunk, in the order of a forward pass; one chunk is exact from the base on.
    grades = Allocation(layout, Recipe(), [file.path for file in found.files]).grades
    jobs = [job for job in cut(stored, grades, CHUNK_ELEMENTS) if job.pieces]
    jobs.append(Job(Treatment.FULL, "F32", 4, (Seg(1, 0, 1), Seg(0, 0, 1)), 10))
    for job in jobs:
        sums = []
        for state in states[2:] if job.pieces else states:
            data = b"".join(state[p.offset : p.offset + p.size] for p in chunk_spans(job, layout))
            parts = checks.parts(job)
            sums.append(tuple(zlib.crc32(data[p.start : p.start + p.size]) for p in parts))
        checks.add(job, sums)
    (steady, one), (moving, three) = checks.jobs(stored, 3)
    assert steady.pieces == (Piece(0, 60, 4), Piece(0, 80, 4))
    assert one == [bytes(content[60:64]) + b"odd "]
    assert moving.pieces == (Piece(0, 4, 4), Piece(0, 90, 4))
    assert three == [2 * crc(state[10:50]) for state in states]
    assert three[2] == content[4:8] * 2
    # All chunks together are the file, each byte once.
    places = sorted(
        (p.offset, p.size) for job in [*jobs, steady, moving] for p in chunk_spans(job, layout)
    )
    at = 0
    for offset, size in places:
        assert offset == at
        at += size
    assert at == 100
