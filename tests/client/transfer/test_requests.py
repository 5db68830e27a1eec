"""The planner: which updates, which byte ranges."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.client.transfer.requests import RequestSizes, plan_requests
from p2u.errors import UsageError
from p2u.package.graph import find_path, leads_to


@dataclass(frozen=True)
class Edge:
    source: str | None
    target: str
    bytes: int


@dataclass(frozen=True)
class Span:
    blob: int
    start: int
    length: int


CHAIN = [Edge(None, "a", 10), Edge("a", "b", 20), Edge("b", "c", 30)]


def way(edges, have, want):
    return [(e.source, e.target) for e in find_path(edges, have, want)]


def test_path_from_nothing_and_from_a_state():
    assert way(CHAIN, None, "c") == [(None, "a"), ("a", "b"), ("b", "c")]
    assert way(CHAIN, "b", "c") == [("b", "c")]
    assert way(CHAIN, "b", "b") == []


def test_path_takes_the_cheaper_way():
    assert way([*CHAIN, Edge("a", "c", 45)], None, "c") == [(None, "a"), ("a", "c")]
    assert way([*CHAIN, Edge("a", "c", 55)], None, "c")[-1] == ("b", "c")
    # From nothing, if that is cheaper than what leads on from here.
    assert way([*CHAIN, Edge(None, "c", 5)], "b", "c") == [(None, "c")]


def test_path_begins_anew_where_nothing_leads_on():
    assert way(CHAIN, "c", "a") == [(None, "a")]
    assert way(CHAIN, "unknown", "a") == [(None, "a")]


def test_no_path():
    with pytest.raises(UsageError, match="no update leads to the state 'x'"):
        find_path(CHAIN, None, "x")


def test_leads_to():
    assert leads_to(CHAIN, "a", "c")
    assert leads_to(CHAIN, "b", "b")
    assert not leads_to(CHAIN, "c", "a")


def test_neighbours_are_joined_up_to_the_limit():
    chunks = [Span(0, i << 20, 1 << 20) for i in range(20)]
    sizes = [r.length >> 20 for r in plan_requests(chunks, jobs=1)]
    assert sizes == [4, 4, 4, 4, 2, 1, 1]
    assert RequestSizes().most == 4 << 20


def test_a_chunk_larger_than_the_limit_goes_alone():
    large = RequestSizes().most + 1
    found = plan_requests([Span(0, 0, 10), Span(0, 10, large), Span(0, 10 + large, 10)])
    assert [r.length for r in found] == [10, large, 10]


def test_small_gaps_are_closed_and_large_ones_are_not():
    chunks = [Span(0, 0, 100), Span(0, 150, 100), Span(0, 301, 100)]
    found = plan_requests(chunks, sizes=RequestSizes(gap=50))
    assert [(r.start, r.length, len(r.chunks)) for r in found] == [(0, 250, 2), (301, 100, 1)]


def test_blobs_are_apart():
    found = plan_requests([Span(0, 0, 10), Span(1, 10, 10)])
    assert [(r.blob, r.start) for r in found] == [(0, 0), (1, 10)]


def test_whole_blobs_where_the_store_has_no_ranges():
    chunks = [Span(0, 50, 10), Span(0, 500_000, 10), Span(1, 7, 3)]
    found = plan_requests(chunks, ranges=False)
    assert [(r.blob, r.start, r.length) for r in found] == [(0, 0, 500_010), (1, 0, 10)]
    assert plan_requests([], ranges=False) == plan_requests([]) == ()


def test_requests_shrink_towards_the_end_so_that_all_threads_end_together():
    chunks = [Span(0, i * 10_000, 10_000) for i in range(2000)]
    sizes = [r.length for r in plan_requests(chunks, jobs=4)]
    assert 2.4e6 < sizes[0] <= 2.5e6
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert max(sizes[-5:]) <= RequestSizes().least


@given(
    st.lists(st.tuples(st.integers(1, 1 << 20), st.booleans()), max_size=60),
    st.integers(1, 9),
    st.integers(0, 6000),
    st.booleans(),
)
def test_every_chunk_is_asked_for_once_and_in_order(sizes, jobs, max_gap, ranges):
    chunks, blob, start = [], 0, 0
    for number, (size, wanted) in enumerate(sizes):
        if number % 13 == 12:
            blob, start = blob + 1, 0
        if wanted:
            chunks.append(Span(blob, start, size))
        start += size
    found = plan_requests(chunks, ranges=ranges, jobs=jobs, sizes=RequestSizes(gap=max_gap))
    assert [c for r in found for c in r.chunks] == chunks
    for r in found:
        assert all(c.blob == r.blob for c in r.chunks)
        assert r.start <= r.chunks[0].start
        last = r.chunks[-1]
        assert r.start + r.length == last.start + last.length
        if ranges:
            assert len(r.chunks) == 1 or r.length <= RequestSizes().most


# --- any graph

STATES = "abcdef"


@st.composite
def graphs(draw) -> list[Edge]:
    """Updates that lead to later states, and some from nothing."""
    pairs = [(None, s) for s in STATES]
    pairs += [(s, t) for n, s in enumerate(STATES) for t in STATES[n + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12))
    return [Edge(s, t, draw(st.integers(0, 50))) for s, t in chosen]


def all_ways(edges, begin, want):
    """Every way, the slow and plain way."""
    if begin == want:
        yield ()
    for edge in edges:
        if edge.source == begin:
            for rest in all_ways(edges, edge.target, want):
                yield (edge, *rest)


@given(
    graphs(),
    st.sets(st.sampled_from(STATES), max_size=3),
    st.sampled_from(STATES),
    st.integers(0, 30),
    st.data(),
)
def test_any_graph(edges, have, want, start, data):
    without = data.draw(st.sets(st.sampled_from(edges)) if edges else st.just(set()))
    left = [edge for edge in edges if edge not in without]

    def price(way):
        """Bytes in all; bytes until the first state is there."""
        total = sum(edge.bytes + 1 for edge in way)
        if not way:
            return 0, 0
        if way[0].source is None:
            return total, way[0].bytes + 1
        return total + start, 0

    ways = [way for begin in [None, *have] for way in all_ways(left, begin, want)]
    options = {
        "also": sorted(have),
        "cost": lambda edge: edge.bytes + 1,
        "start": lambda state: start,
        "without": without,
    }
    if not ways:
        with pytest.raises(UsageError):
            find_path(edges, None, want, **options)
        return
    found = find_path(edges, None, want, **options)
    assert price(found) == min(map(price, ways))
    assert found in ways
