"""Bundles: chunks of several updates that hold the same bytes."""

from __future__ import annotations

import pytest

from p2u.client.transfer.bundles import Wanted, common_bundles, single_bundles
from p2u.package.geometry import Chunk, Piece, Seg
from p2u.package.manifest import Blob


def chunks(*contents: Seg | Piece) -> tuple[Chunk, ...]:
    """Chunks of ten bytes each, one for each content."""
    found = []
    for number, content in enumerate(contents):
        rows = (content,) if isinstance(content, Seg) else ()
        pieces = (content,) if isinstance(content, Piece) else ()
        found.append(Chunk(number, 0, 10 * number, 10, bytes(32), rows, pieces))
    return tuple(found)


A, B, C = Seg(0, 0, 5), Seg(0, 5, 5), Seg(1, 0, 9)
HEAD = Piece(0, 0, 100)


def test_chunks_of_the_same_bytes_are_one_bundle() -> None:
    base, middle, last = chunks(HEAD, A, B, C), chunks(A, B), chunks(B, A)
    found = common_bundles([base, middle, last])
    assert found is not None
    assert [bundle.number for bundle in found] == [0, 1, 2, 3]
    assert [bundle.updates for bundle in found] == [(0,), (0, 1, 2), (0, 1, 2), (0,)]
    assert found[1].chunks == (base[1], middle[0], last[1])
    assert [bundle.length for bundle in found] == [10, 30, 30, 10]


@pytest.mark.parametrize("other", [Seg(0, 0, 4), Seg(0, 0, 10), Seg(2, 0, 1), Piece(0, 0, 99)])
def test_updates_that_cut_differently_have_none(other: Seg | Piece) -> None:
    assert common_bundles([chunks(HEAD, A, B), chunks(A), chunks(other)]) is None


def test_payloads_that_are_held_are_not_fetched() -> None:
    bundles = common_bundles([chunks(A, B), chunks(A, B)])
    assert bundles is not None
    blobs = ((Blob("base", 20),), (Blob("exact", 20),))
    wanted = Wanted(blobs, bundles, {(0, 1): bytearray(10)})
    assert wanted.size == 30
    assert [[n for n, _ in wanted.missing(bundle)] for bundle in bundles] == [[0, 1], [1]]
    # They are the same bytes, wherever they come from.
    assert wanted.same(Wanted(blobs, bundles))
    assert not wanted.same(Wanted(blobs, bundles[:1]))


def test_of_one_update_the_numbers_are_those_of_the_chunks() -> None:
    assert [bundle.number for bundle in single_bundles(chunks(A, B, C)[1:])] == [1, 2]
