"""The cheapest way through updates, and whether any leads from one state to another."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import UsageError
from p2u.package.graph import find_path, leads_to


@dataclass(frozen=True)
class Edge:
    source: str | None
    target: str
    bytes: int


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
