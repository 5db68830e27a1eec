"""The graph of states and updates: find the updates that lead from one state to another."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol, TypeVar

from p2u.errors import UsageError


class Edge(Protocol):
    """An update from ``source`` (None: nothing) to ``target`` that costs ``bytes``."""

    @property
    def source(self) -> str | None: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102


U = TypeVar("U", bound=Edge)


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

    Among routes of equal cost, the one that reaches its first state for the fewest bytes.

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
    # Dijkstra over pairs: bytes of the route, and of its beginning up to the first state; the count
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
        size, first, _, state, route = heapq.heappop(heap)
        if state == want:
            return route
        if state in seen:
            continue
        seen.add(state)
        for update in updates:
            if update.source == state and update.target not in seen and update not in without:
                count += 1
                more = size + cost(update)
                begin = more if state is None else first
                heapq.heappush(heap, (more, begin, count, update.target, (*route, update)))
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
