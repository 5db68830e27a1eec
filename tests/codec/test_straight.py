"""All levels of some rows in one go: the same bytes, and the same messages, as chunk by chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import make
from oracle.samples import LEVELS, Sample, joined, samples

from p2u.codec import core
from p2u.codec.chunk import ChunkPayload, apply_chunks
from p2u.errors import FormatError
from p2u.package.geometry import chunk_spans
from p2u.package.index import parse_index
from p2u.package.layout import ReleaseLayout, parse_layout

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]


@given(samples, st.sampled_from(LEVELS), st.integers(-300, 200), st.booleans())
def test_levels_in_one_go(sample: Sample, wanted: list[int], offset: int, coded: bool) -> None:
    segments = sample.segments()
    scales = core.row_scales(sample.dtype, offset, segments)
    codes = sample.codes() if coded else None
    done = core.encode(sample.dtype, segments, scales, wanted, codes=codes)
    slow = sample.blank()
    for payload in done.payloads:
        core.apply(payload, sample.dtype, sample.item, slow)
    for isa in TWINS:
        fast = sample.blank()
        assert core.apply_straight(done.payloads, sample.dtype, fast, isa)
        assert joined(fast) == joined(slow)


def test_one_go_is_for_a_base_and_refinements() -> None:
    rows = [core.Segment(bytearray(np.ones(64, "<f4").tobytes()), 64, 8)]
    scales = core.row_scales("F32", 0, rows)
    base, exact = core.encode("F32", rows, scales, [0]).payloads
    (full,) = core.encode("F32", rows, scales, [0], full=True).payloads
    for payloads in ([exact], [base, base], [full, exact], [exact, base], [base, exact[:-1]]):
        assert not core.apply_straight(payloads, "F32", rows)
    assert core.apply_straight([base, exact], "F32", rows)
    assert bytes(rows[0].mem) == np.ones(64, "<f4").tobytes()


def test_the_message_names_the_malformed_chunk(tmp_path: Path) -> None:
    made = make(tmp_path)
    release = made.manifest.latest
    model = ReleaseLayout(
        release, parse_layout((made.package / release.layout.key).read_bytes(), release)
    )

    def chunks(label: str) -> list[ChunkPayload]:
        update = made.update(label)
        index = parse_index((made.package / update.index.key).read_bytes(), update, model)
        keys = [update.blobs[c.blob].key for c in index.chunks]
        blobs = {key: bytearray((made.package / key).read_bytes()) for key in keys}
        return [
            ChunkPayload(c, memoryview(blobs[key])[c.start : c.start + c.length], key)
            for c, key in zip(index.chunks, keys, strict=True)
        ]

    base = next(c for c in chunks("base") if not c.chunk.pieces and c.payload[0] == 1)
    same = base.chunk.segments
    later = [c for s in ("8bit", "exact") for c in chunks(s) if c.chunk.segments == same]
    levels = [base, *later]
    assert len(levels) == 3
    spans = chunk_spans(levels[0].chunk, model.layout)
    buffers = [memoryview(bytearray(span.size)) for span in spans]
    apply_chunks(levels, model.layout, spans, buffers)
    original = (made.states["exact"] / release.files[spans[0].file].path).read_bytes()
    assert buffers[0] == original[spans[0].offset : spans[0].offset + spans[0].size]
    levels[1].payload[11] = 99
    with pytest.raises(FormatError, match=r"8bit.*header"):
        apply_chunks(levels, model.layout, spans, buffers)
