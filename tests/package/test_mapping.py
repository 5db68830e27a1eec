"""An index between two releases: its map, what is copied by it, and what the map may not say."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import FormatError, P2UError
from p2u.package.geometry import all_spans
from p2u.package.index import Chunk, Piece, Seg, encode_index, parse_index
from p2u.package.layout import Layout, ReleaseLayout, Tensor
from p2u.package.manifest import (
    Blob,
    FileEntry,
    Object,
    Release,
    Update,
)
from p2u.package.mapping import Map, aligned, copies, identity, source_bytes

SHA = [hashlib.sha256(bytes([n])).hexdigest() for n in range(20)]


# Of the source: a header, two tensors with a gap between them, a file that is carried.
SOURCE = ReleaseLayout(
    Release(
        "v1",
        (FileEntry("old", 700, (SHA[0],)), FileEntry("notes", 40, (SHA[1],))),
        Object("l1", 1, SHA[2]),
        (),
    ),
    Layout(
        (
            Tensor("a", "BF16", (10, 20), 0, 100, 400, 20, 2),
            Tensor("b", "F32", (5, 5), 0, 520, 100, 25, 4),
            Tensor("q", "Q8_0", (64,), 0, 620, 68, 68, 1),
        )
    ),
)


# Of the target: the tensors renamed, in another file and order, one longer, one new.
TARGET = ReleaseLayout(
    Release(
        "v2",
        (FileEntry("notes", 50, (SHA[3],)), FileEntry("new", 900, (SHA[4],))),
        Object("l2", 1, SHA[5]),
        (),
    ),
    Layout(
        (
            Tensor("b2", "F32", (25,), 1, 50, 100, 5, 4),
            Tensor("a2", "BF16", (15, 20), 1, 150, 600, 20, 2),
            Tensor("q2", "F16", (64,), 1, 750, 128, 64, 2),
        )
    ),
)


MAP = Map((1, 0, 2), (1, 0))


def rows(tensor: int, first: int, count: int) -> Chunk:
    return Chunk(0, 0, 0, 10, b"x" * 32, (Seg(tensor, first, count),), ())


def carry(*pieces: tuple[int, int, int]) -> Chunk:
    return Chunk(0, 0, 0, 10, b"x" * 32, (), tuple(Piece(*p) for p in pieces))


#: Rows 2 of b2, what a2 has more than a, what its Q8_0 source cannot give q2, the longer notes.
CHUNKS = [rows(0, 2, 1), rows(1, 10, 5), rows(2, 0, 1), carry((0, 40, 10), (1, 878, 22))]


def version_update(chunks: int) -> Update:
    size = 10 * chunks
    return Update("v1@x", "v2@x", Object("u", 1, SHA[6]), (Blob("b", size),), size, chunks)


def parse(chunks: list[Chunk], found: Map = MAP, source: ReleaseLayout = SOURCE) -> Any:
    of = version_update(len(chunks))
    return parse_index(encode_index(chunks, found), of, TARGET, source)


def test_index_with_a_map() -> None:
    data = encode_index(CHUNKS, MAP)
    assert data[:11] == b"P2UI\x01\x01\x02\x01\x03\x02\x01"
    found = parse(CHUNKS)
    assert found.map == MAP
    assert encode_index(found.chunks, found.map) == data
    assert encode_index(CHUNKS, Map((None, 0, None), (None, 1)))[:11] == (
        b"P2UI\x01\x01\x00\x01\x00\x00\x02"
    )


def test_copies() -> None:
    found = parse(CHUNKS)
    made = copies(all_spans(found.chunks, TARGET.layout), MAP, TARGET, SOURCE, "u")
    assert [(c.file, c.offset, c.source_file, c.source_offset, c.size) for c in made] == [
        (0, 0, 1, 0, 40),
        (1, 0, 0, 0, 50),
        (1, 50, 0, 520, 40),
        (1, 110, 0, 560 + 20, 40),
        (1, 150, 0, 100, 400),
    ]


@pytest.mark.parametrize(
    ("chunks", "found", "match"),
    [
        (CHUNKS[1:], Map((None, 0, 2), (1, 0)), "'b2', and there is nothing"),
        (CHUNKS[1:], Map((0, 0, 2), (1, 0)), "'b2', and there is nothing"),  # another dtype
        ([*CHUNKS[:1], *CHUNKS[2:]], MAP, "150 to 750 of tensor 'a2'"),  # a is shorter
        ([*CHUNKS[:2], *CHUNKS[3:]], MAP, "750 to 878 of tensor 'q2'"),
        (CHUNKS[:3], MAP, "notes: no chunk brings bytes 0 to 50"),  # the old one has 40
        (CHUNKS, Map((1, 0, 2), (1, None)), "new: no chunk brings bytes 0 to 50"),
        (CHUNKS, Map((1, 0, 2), (1, 1)), "new: no chunk brings bytes 0 to 50"),
        (CHUNKS, Map((3, 0, 2), (1, 0)), "maps tensor 0 to 3 of 3"),
        (CHUNKS, Map((1, 0, 2), (2, 0)), "maps file 0 to 2 of 2"),
        ([*CHUNKS, rows(0, 2, 1)], MAP, "row 2 of tensor number 0 appears twice"),
        ([*CHUNKS, carry((1, 40, 20))], MAP, "belong to a tensor"),
        ([*CHUNKS, carry((0, 45, 1))], MAP, "byte 45 appears twice"),
        ([*CHUNKS, carry((0, 45, 10))], MAP, "do not exist"),
    ],
)
def test_maps_that_do_not_do(chunks: list[Chunk], found: Map, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse(chunks, found)
    assert caught.value.file == "u"
    assert caught.value.hint


def test_updates_between_releases_have_a_map_and_no_others() -> None:
    of = version_update(len(CHUNKS))
    with pytest.raises(FormatError, match="map flag is 0, 1 expected"):
        parse_index(encode_index(CHUNKS), of, TARGET, SOURCE)
    data = encode_index(CHUNKS, MAP)
    with pytest.raises(FormatError, match="map flag is 1, 0 expected"):
        parse_index(data, of, TARGET)
    with pytest.raises(FormatError, match="map flag is 2, 1 expected"):
        parse_index(data[:5] + b"\x02" + data[6:], of, TARGET, SOURCE)


def test_other_versions_of_an_index_are_refused() -> None:
    data = encode_index(CHUNKS, MAP)
    for version in (0, 2):
        with pytest.raises(FormatError, match=f"version {version}, 1 expected"):
            parse_index(
                data[:4] + bytes([version]) + data[5:],
                version_update(len(CHUNKS)),
                TARGET,
                SOURCE,
            )


def test_every_truncation_of_a_map() -> None:
    data = encode_index(CHUNKS, MAP)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_index(data[:length], version_update(len(CHUNKS)), TARGET, SOURCE)


@given(st.data())
def test_any_change_of_an_index(data: st.DataObject) -> None:
    raw = bytearray(encode_index(CHUNKS, MAP))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    of = version_update(len(CHUNKS))
    try:
        found = parse_index(bytes(raw), of, TARGET, SOURCE)
    except P2UError:
        return
    assert encode_index(found.chunks, found.map) == raw
    made = copies(all_spans(found.chunks, TARGET.layout), found.map, TARGET, SOURCE, "u")
    for c in made:
        assert 0 <= c.source_offset <= SOURCE.files[c.source_file].size - c.size
    brought = sum(span.size for span in all_spans(found.chunks, TARGET.layout))
    total = brought + sum(c.size for c in made)
    assert total == sum(file.size for file in TARGET.files)


def test_what_corresponds() -> None:
    a, b, q = SOURCE.tensors
    b2, a2, q2 = TARGET.tensors
    assert source_bytes(b2, b, 5, 20) == (20, 80)
    assert source_bytes(b2, a, 5, 20) == (10, 40)
    assert source_bytes(a2, a, 180, 20) == (360, 40)
    assert source_bytes(a2, a, 180, 40) is None
    assert source_bytes(q2, q, 0, 64) == (0, 68)
    assert source_bytes(q2, q, 32, 32) == (34, 34)
    assert source_bytes(q2, q, 16, 32) is None
    assert source_bytes(replace(q2, dtype="I16"), q, 2, 5) == (2, 5)


def test_aligned() -> None:
    same = ReleaseLayout(replace(SOURCE.release, version="v2"), SOURCE.layout)
    assert aligned(same, SOURCE, identity(same))
    assert not aligned(same, SOURCE, Map((0, 1, None), (0, 1)))
    assert not aligned(TARGET, SOURCE, identity(TARGET))
    longer = replace(SOURCE.release, files=(SOURCE.files[0], replace(SOURCE.files[1], size=41)))
    assert not aligned(ReleaseLayout(longer, SOURCE.layout), SOURCE, identity(same))
