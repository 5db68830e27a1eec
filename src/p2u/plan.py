"""Pure planner: which updates, and which byte ranges, lead from what is here to what is wanted.

Nothing here reads or writes anything. The shapes it works on are stated as protocols, so that it
depends on no other module: manifests, indices and tests all fit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from p2u.errors import UsageError

#: Most bytes of one request: large enough for the link's delay not to matter, small enough for
#: several connections to take turns in order.
MAX_REQUEST = 4 << 20
#: Fewest bytes that are worth a request of their own while there is more than one chunk.
MIN_REQUEST = 256 << 10
#: Bytes between two wanted ranges that are fetched and dropped rather than asked around.
MAX_GAP = 32 << 10


class Ranged(Protocol):
    """Something at ``start`` with ``length`` bytes in the blob number ``blob``."""

    @property
    def blob(self) -> int: ...  # noqa: D102
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102


class Edge(Protocol):
    """An update from ``source`` (None: nothing) to ``target`` that costs ``bytes``."""

    @property
    def source(self) -> str | None: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102


C = TypeVar("C", bound=Ranged)
U = TypeVar("U", bound=Edge)


@dataclass(frozen=True, slots=True)
class Request(Generic[C]):
    """One byte range of a blob, and the chunks in it, in order of their start."""

    blob: int
    start: int
    length: int
    chunks: tuple[C, ...]


def find_path(
    updates: Sequence[U],
    have: str | None,
    want: str,
    *,
    also: Iterable[str] = (),
    cost: Callable[[U], int] = lambda update: update.bytes,
    start: Callable[[str], int] = lambda state: 0,
    without: Container[U] = (),
) -> tuple[U, ...]:
    """The updates that lead to ``want`` for the fewest bytes, in order.

    Among ways of equal cost, that which comes to its first state for the fewest bytes.

    Args:
        updates: All there are.
        have: The state at hand; None for nothing. Starting from nothing is always possible, and is
            what happens when no update leads on from what is at hand, or that would cost more.
        want: The state wanted.
        also: More states at hand.
        cost: Bytes of an update.
        start: Bytes to fetch before the first update from a state at hand.
        without: Updates that cannot be used.

    Returns:
        Empty if ``want`` is at hand.

    Raises:
        UsageError: No updates lead there.
    """
    # Dijkstra over pairs: bytes of the way, and of its beginning up to the first state; the count
    # keeps the rest in the order of the updates.
    held = [*({} if have is None else {have: None}), *also]
    heap: list[tuple[int, int, int, str | None, tuple[U, ...]]] = [
        (0 if state == want else start(state), 0, number, state, ())
        for number, state in enumerate(held)
    ]
    count = len(heap)
    heap.append((0, 0, count, None, ()))
    heapq.heapify(heap)
    seen: set[str | None] = set()
    while heap:
        size, first, _, state, way = heapq.heappop(heap)
        if state == want:
            return way
        if state in seen:
            continue
        seen.add(state)
        for update in updates:
            if update.source == state and update.target not in seen and update not in without:
                count += 1
                more = size + cost(update)
                begin = more if state is None else first
                heapq.heappush(heap, (more, begin, count, update.target, (*way, update)))
    raise UsageError(f"no update leads to the state {want!r}", hint="Choose another state")


def leads_to(updates: Iterable[Edge], first: str, second: str) -> bool:
    """Whether ``second`` is ``first`` or can be reached from it: it is as good or better."""
    edges = [(u.source, u.target) for u in updates]
    reached = {first}
    grown = True
    while grown:
        grown = False
        for source, target in edges:
            if source in reached and target not in reached:
                reached.add(target)
                grown = True
    return second in reached


def in_time(left: int, rate: float, seconds: float, deadline: float) -> bool:
    """Whether ``left`` bytes more will be here by the deadline.

    Args:
        left: Bytes.
        rate: Bytes per second, measured.
        seconds: Gone by.
        deadline: Seconds from the same beginning.
    """
    return left <= rate * (deadline - seconds)


def plan_requests(
    chunks: Iterable[C],
    *,
    ranges: bool = True,
    jobs: int = 1,
    max_gap: int = MAX_GAP,
) -> tuple[Request[C], ...]:
    """Byte ranges that hold all these chunks.

    Args:
        chunks: Those missing, in the order wanted; neighbours in it are joined to one request when
            they lie in one blob one behind the other.
        ranges: False if the server only delivers whole blobs: then one request per blob, from its
            beginning to the end of the last chunk missing there.
        jobs: Threads that share the requests. These shrink towards the end, so that all threads
            end at about the same time (guided self-scheduling, Polychronopoulos and Kuck 1987).
        max_gap: Most bytes between two chunks of a request.
    """
    groups: list[list[C]] = []
    chunks = tuple(chunks)
    if not ranges:
        blobs: dict[int, list[C]] = {}
        for chunk in chunks:
            blobs.setdefault(chunk.blob, []).append(chunk)
        groups = [sorted(group, key=lambda c: c.start) for group in blobs.values()]
        return tuple(_request(group, 0) for group in groups)
    left = sum(chunk.length for chunk in chunks)
    most = 0
    for chunk in chunks:
        if groups:
            first, last = groups[-1][0], groups[-1][-1]
            end = last.start + last.length
            if (
                chunk.blob == last.blob
                and end <= chunk.start <= end + max_gap
                and chunk.start + chunk.length - first.start <= most
            ):
                groups[-1].append(chunk)
                left -= chunk.length
                continue
        groups.append([chunk])
        most = max(MIN_REQUEST, min(MAX_REQUEST, left // (2 * jobs)))
        left -= chunk.length
    return tuple(_request(group, group[0].start) for group in groups)


def _request(group: list[C], start: int) -> Request[C]:
    last = group[-1]
    return Request(last.blob, start, last.start + last.length - start, tuple(group))
