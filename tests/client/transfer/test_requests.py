"""Which byte ranges are asked for, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from p2u.client.transfer import requests
from p2u.client.transfer.requests import RequestSizes


@dataclass(frozen=True)
class Span:
    blob: int
    start: int
    length: int


@dataclass(frozen=True)
class Range:
    """The bundles of a request that are of one update, and the bytes that it takes."""

    blob: int
    start: int
    length: int
    chunks: tuple[Span, ...]


def plan_requests(chunks, **options):
    """The requests for bundles of one chunk each."""
    found = requests.plan_requests(chunks, lambda chunk: [(0, chunk)], **options)
    whole = not options.get("ranges", True)
    ranges = []
    for request in found:
        first, last = request.bundles[0], request.bundles[-1]
        start = 0 if whole else first.start
        assert request.length == last.start + last.length - start
        ranges.append(Range(first.blob, start, request.length, request.bundles))
    return tuple(ranges)


def plan_several(bundles, **options):
    """The requests for bundles of several chunks, None where one is not missing."""

    def missing(bundle):
        return [(n, chunk) for n, chunk in enumerate(bundle) if chunk is not None]

    return requests.plan_requests(bundles, missing, **options)


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


def levels(count, *lengths):
    """Bundles whose chunks follow each other, one blob for each level."""
    return [tuple(Span(0, number * n, n) for n in lengths) for number in range(count)]


def test_bundles_are_joined_while_all_their_chunks_follow_each_other():
    bundles = levels(6, 100, 200)
    assert [len(r.bundles) for r in plan_several(bundles)] == [6]
    # The second level's blob ends after the third bundle.
    cut = [(a, Span(n // 3, b.start % 600, b.length)) for n, (a, b) in enumerate(bundles)]
    assert [len(r.bundles) for r in plan_several(cut)] == [3, 3]
    # The third bundle has no second chunk: its neighbours have a gap there, which is closed.
    some = [*bundles[:2], (bundles[2][0], None), *bundles[3:]]
    assert [(len(r.bundles), r.length) for r in plan_several(some)] == [(6, 1800)]
    sizes = RequestSizes(gap=0)
    assert [len(r.bundles) for r in plan_several(some, sizes=sizes)] == [3, 3]


def test_the_limit_is_that_of_each_range():
    bundles = levels(40, 1 << 20, 1 << 19)
    assert [r.length >> 19 for r in plan_several(bundles)][:3] == [12, 12, 12]


def test_requests_can_be_sorted_by_their_first_bundles():
    bundles = [(Span(n % 2, 100 * n, 50),) for n in range(6)]
    found = plan_several(bundles, order=lambda bundle: (bundle[0].blob, bundle[0].start))
    assert [r.bundles[0][0].start for r in found] == [0, 200, 400, 100, 300, 500]


def test_bundles_that_are_here_need_no_request_of_their_own():
    (request,) = plan_several([(None, None), *levels(3, 10, 10), (None, None)])
    assert (len(request.bundles), request.length) == (5, 60)


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
