"""The chunk index: compact, canonical, and never trusted."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import FormatError, P2UError
from p2u.package.geometry import Chunk, Piece, Seg
from p2u.package.index import decode_pieces, encode_index, parse_index
from p2u.package.layout import Layout, ReleaseLayout, Tensor
from p2u.package.manifest import Blob, FileEntry, Object, Release, Update

SHA = "0" * 64
# File 0 is carried; file 1 has a header of 100 bytes and two tensors, the last row of b is short.
LAYOUT = Layout(
    (
        Tensor("a", "BF16", (10, 20), 1, 100, 400, 20, 2),
        Tensor("none", "BF16", (0,), 1, 500, 0, 1, 2),
        Tensor("b", "BF16", (1, 50), 1, 500, 100, 20, 2),
        Tensor("c", "F32", (5, 5), 1, 600, 100, 25, 4),
    )
)
RELEASE = Release(
    "v1",
    (
        FileEntry("config", 10, (SHA,)),
        FileEntry("model", 700, (SHA,)),
        FileEntry("zero", 0, (SHA,)),
    ),
    Object("layout", 1, SHA),
    (),
)
MODEL = ReleaseLayout(RELEASE, LAYOUT)


def update(chunks: int, *blobs: int, source: str | None = None) -> Update:
    keys = tuple(Blob(f"{n}.bin", size) for n, size in enumerate(blobs))
    return Update(source, "t", Object("t.index", 1, SHA), keys, sum(blobs), chunks)


def chunk(length: int, *segments: tuple[int, int, int]) -> Chunk:
    sha = hashlib.sha256(repr((length, segments)).encode()).digest()
    return Chunk(0, 0, 0, length, sha, tuple(Seg(*s) for s in segments), ())


def carry(length: int, *pieces: tuple[int, int, int]) -> Chunk:
    sha = hashlib.sha256(repr((length, pieces)).encode()).digest()
    return Chunk(0, 0, 0, length, sha, (), tuple(Piece(*p) for p in pieces))


BASE = [
    carry(30, (1, 0, 100)),
    carry(9, (0, 0, 10)),
    chunk(200, (2, 0, 3), (0, 7, 3)),
    chunk(100, (0, 0, 7)),
    chunk(300, (3, 0, 1)),
]
BASE_UPDATE = update(5, 239, 400)
REFINE = [
    chunk(5, (2, 0, 2), (0, 9, 1)),
    chunk(6, (0, 0, 9)),
    carry(9, (0, 6, 4)),
    carry(20, (0, 1, 2), (0, 3, 1), (1, 96, 4)),
]
REFINE_UPDATE = update(4, 40, source="s")
#: How an index without a map begins.
HEAD = b"P2UI\x01\x00"


def test_round_trip() -> None:
    data = encode_index(BASE)
    parsed = parse_index(data, BASE_UPDATE, MODEL).chunks
    places = [(0, 0), (0, 30), (0, 39), (1, 0), (1, 100)]
    assert list(parsed) == [
        replace(c, number=n, blob=places[n][0], start=places[n][1]) for n, c in enumerate(BASE)
    ]
    assert encode_index(parsed) == data
    refine = encode_index(REFINE)
    assert encode_index(parse_index(refine, REFINE_UPDATE, MODEL).chunks) == refine


def test_size_and_bytes() -> None:
    assert encode_index([]) == b"P2UI\x01\x00\x00"
    one = encode_index([chunk(300, (3, 0, 1))])
    assert one[7:10] == b"\x00\xac\x02"
    assert one[42:] == b"\x01\x06\x00\x01"
    # A large model: one run of rows per chunk.
    many = encode_index([chunk(400_000, (n // 16, n % 16 * 64, 64)) for n in range(1000)])
    assert len(many) < 41 * 1000


def test_empty_update() -> None:
    assert parse_index(encode_index([]), update(0, source="s"), MODEL).chunks == ()


def wrong(chunks: list[Chunk], of: Update, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_index(encode_index(chunks), of, MODEL)
    assert caught.value.file == "t.index"
    assert caught.value.hint


def replaced(number: int, new: Chunk) -> list[Chunk]:
    return [new if n == number else c for n, c in enumerate(BASE)]


@pytest.mark.parametrize(
    ("chunks", "match"),
    [
        (replaced(3, chunk(100, (0, 0, 6))), "missing or appears twice"),
        (replaced(3, chunk(100, (0, 0, 8))), "missing or appears twice"),
        (replaced(3, chunk(100, (0, 0, 7), (0, 0, 1))), "missing or appears twice"),
        (replaced(3, chunk(100, (0, 1, 10))), "rows"),
        (replaced(3, chunk(100, (0, 2**50, 7))), "rows"),
        (replaced(3, chunk(100, (0, 0, 0))), "rows"),
        (replaced(3, chunk(100, (1, 0, 1))), "rows"),
        (replaced(3, chunk(100, (4, 0, 1))), "tensor 4"),
        (replaced(3, chunk(100, (0, 0, 7), (3, 0, 1))), "mixes"),
        (replaced(3, chunk(101, (0, 0, 7))), "fit"),
        (replaced(3, chunk(0, (0, 0, 7))), "0 bytes"),
        (replaced(1, carry(9, (0, 0, 9))), "hold 9 of 10 bytes"),
        (replaced(1, carry(9, (0, 0, 11))), "do not exist"),
        (replaced(1, carry(9, (3, 0, 10))), "do not exist"),
        (replaced(1, carry(9, (0, 0, 0))), "do not exist"),
        (replaced(1, carry(9, (0, 2**54, 1))), "do not exist"),
        (replaced(1, chunk(9)), "empty"),
    ],
)
def test_lying_indices(chunks: list[Chunk], match: str) -> None:
    wrong(chunks, BASE_UPDATE, match)


def test_counts_and_sizes_must_agree() -> None:
    wrong(BASE, update(6, 239, 400), "5 chunks")
    wrong(BASE, update(5, 239, 401), "longer")
    wrong(BASE, update(5, 239, 399), "fit")
    wrong(BASE, update(5, 240, 400), "fit")  # a blob must be full before the next begins
    wrong(BASE, update(5, 239, 400, 1), "longer")
    wrong(BASE[:4], update(4, 239, 100), "hold 600 of 700 bytes")


def test_refinements_hold_rows_once() -> None:
    of = update(2, 11, source="s")
    wrong([chunk(5, (0, 0, 5)), chunk(6, (0, 4, 1))], of, "twice")
    wrong([chunk(5, (0, 0, 5), (0, 4, 1)), chunk(6, (2, 0, 1))], of, "twice")


@pytest.mark.parametrize(
    ("pieces", "match"),
    [
        ([((0, 0, 4),), ((0, 3, 1),)], "config: byte 3 appears twice"),
        ([((0, 0, 4), (1, 0, 9)), ((1, 8, 2),)], "model: byte 8 appears twice"),
        ([((1, 96, 5),)], "model: bytes 96 to 101 are carried, but belong to a tensor"),
        ([((1, 0, 4), (1, 499, 1))], "499 to 500 are carried, but belong to a tensor"),
        ([((1, 500, 1),)], "belong to a tensor"),
        ([((1, 699, 1),)], "belong to a tensor"),
        ([((1, 99, 601),)], "belong to a tensor"),
        ([((0, 9, 2),)], "do not exist"),
        ([((0, 0, 1), (1, 0, 1), (2, 0, 1))], "do not exist"),
        ([((0, 0, 1), (3, 0, 1))], "do not exist"),
        ([((0, 0, 1), (0, 2, 0))], "do not exist"),
    ],
)
def test_refinements_replace_what_no_tensor_covers_once(
    pieces: list[tuple[tuple[int, int, int], ...]], match: str
) -> None:
    chunks = [carry(7, *places) for places in pieces]
    of = update(len(chunks), 7 * len(chunks), source="s")
    wrong(chunks, of, match)


def test_pieces_of_the_base_may_not_cover_tensors_either() -> None:
    chunks = [*replaced(0, carry(30, (1, 0, 100), (1, 600, 100)))[:4]]
    wrong(chunks, update(4, 239, 100), "belong to a tensor")


def test_one_place_has_one_spelling() -> None:
    data = bytearray(encode_index([carry(7, (0, 2, 4))]))
    assert data[7] == 1
    of = update(1, 7, source="s")
    assert parse_index(bytes(data), of, MODEL)
    data[7:8], data[41:41] = b"\x02", b"\x01"
    with pytest.raises(FormatError, match="two or more"):
        parse_index(bytes(data), of, MODEL)
    data[7] = 3
    with pytest.raises(FormatError, match="type 3"):
        parse_index(bytes(data), of, MODEL)


def test_many_places_take_few_bytes() -> None:
    model = ReleaseLayout(replace(RELEASE, files=(FileEntry("zip", 10**9, (SHA,)),)), Layout(()))
    places = [(0, 100 + 900_000 * n, 4) for n in range(1000)]
    data = encode_index([carry(4000, *places)])
    assert len(data) < 5200
    of = update(1, 4000, source="s")
    (found,) = parse_index(data, of, model).chunks
    assert found.pieces == tuple(Piece(*p) for p in places)
    large = [(0, n << 21, 1 << 20) for n in range(5)]
    parse_index(encode_index([carry(4000, *large[:4])]), of, model)
    wrong([carry(4000, *large)], of, "too many")


def test_counts_are_checked_before_memory_is_taken() -> None:
    huge = b"\xff" * 7 + b"\x7f"  # almost 2**56
    with pytest.raises(FormatError, match="malformed"):
        parse_index(HEAD + b"\xff" * 8 + b"\x01", BASE_UPDATE, MODEL)
    with pytest.raises(FormatError, match="more than it has room for"):
        parse_index(HEAD + huge[1:], BASE_UPDATE, MODEL)
    data = encode_index([chunk(11, (0, 0, 1))])
    data = data[:41] + huge[1:] + data[42:]
    with pytest.raises(FormatError, match="more than it has room for"):
        parse_index(data, update(1, 11, source="s"), MODEL)


def test_large_chunks_are_refused() -> None:
    layout = Layout((Tensor("a", "F32", (1 << 25,), 1, 0, 1 << 27, 1 << 20, 4),))
    model = ReleaseLayout(replace(RELEASE, files=(FileEntry("a", 1 << 27, (SHA,)),) * 2), layout)
    for rows, good in ((16, True), (17, False)):
        data = encode_index([chunk(11, (0, 0, rows))])
        if good:
            assert parse_index(data, update(1, 11, source="s"), model)
        else:
            with pytest.raises(FormatError, match="more than"):
                parse_index(data, update(1, 11, source="s"), model)
    with pytest.raises(FormatError, match="bytes"):
        size = (128 << 20) + 1
        parse_index(encode_index([chunk(size, (0, 0, 1))]), update(1, size, source="s"), model)


@pytest.mark.parametrize(
    ("chunks", "of"), [(BASE, BASE_UPDATE), (REFINE, REFINE_UPDATE)], ids=["base", "refine"]
)
def test_every_truncation_and_extension_is_refused(chunks: list[Chunk], of: Update) -> None:
    data = encode_index(chunks)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_index(data[:length], of, MODEL)
    with pytest.raises(FormatError):
        parse_index(data + b"\0", of, MODEL)


@pytest.mark.parametrize(
    ("chunks", "of"), [(BASE, BASE_UPDATE), (REFINE, REFINE_UPDATE)], ids=["base", "refine"]
)
def test_every_flipped_bit_is_refused_or_a_digest(chunks: list[Chunk], of: Update) -> None:
    data = encode_index(chunks)
    for bit in range(8 * len(data)):
        raw = bytearray(data)
        raw[bit // 8] ^= 1 << bit % 8
        check_any(bytes(raw), of)


def check_any(raw: bytes, of: Update) -> None:
    """Refused, or read to exactly what it says."""
    try:
        parsed = parse_index(raw, of, MODEL).chunks
    except P2UError:
        return
    assert encode_index(parsed) == raw
    assert sum(c.length for c in parsed) == of.bytes


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data: bytes, base: bool) -> None:
    check_any(HEAD + data, BASE_UPDATE if base else REFINE_UPDATE)


@given(st.data())
def test_any_change(data: st.DataObject) -> None:
    raw = bytearray(encode_index(BASE))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    check_any(bytes(raw), BASE_UPDATE)


def test_pieces() -> None:
    compress = zstandard.ZstdCompressor().compress
    pieces = (Piece(0, 0, 400), Piece(0, 500, 600))
    assert decode_pieces(compress(b"x" * 1000), pieces, "k") == b"x" * 1000
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    for bad in (
        compress(b"x" * 999),
        compress(b"x" * 1001),
        compress(b"x" * 1000) + b"x",
        compress(b"x" * 500) * 2,
        compress(b"x" * 1000)[:-1],
        unsized,
        b"",
        b"x" * 1000,
    ):
        with pytest.raises(FormatError) as caught:
            decode_pieces(bad, pieces, "k")
        assert caught.value.file == "k"
