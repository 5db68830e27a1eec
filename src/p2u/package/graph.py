"""The graph of states and updates: find the updates that lead from one state to another."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

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
    # keeps the rest in the order of the updates. Routes are linked from their ends: manifests come
    # from strangers, and may have long ones.
    leaving = _by_source(updates)
    held = [*({} if have is None else {have: None}), *also]
    heap: list[tuple[int, int, int, str | None, _Link[U] | None]] = [
        (0 if state == want else start(state), 0, number, state, None)
        for number, state in enumerate(held)
    ]
    count = len(heap)
    heap.append((0, 0, count, None, None))
    heapq.heapify(heap)
    seen: set[str | None] = set()
    while heap:
        size, first, _, state, route = heapq.heappop(heap)
        if state == want:
            return _unlink(route)
        if state in seen:
            continue
        seen.add(state)
        for update in leaving.get(state, ()):
            if update.target not in seen and update not in without:
                count += 1
                more = size + cost(update)
                begin = more if state is None else first
                heapq.heappush(heap, (more, begin, count, update.target, _Link(update, route)))
    raise UsageError(f"no update leads to the state {want!r}", hint="Choose another state")


@dataclass(frozen=True, slots=True)
class _Link(Generic[U]):
    """The last update of a route, and the route before it."""

    update: U
    before: _Link[U] | None


def _unlink(route: _Link[U] | None) -> tuple[U, ...]:
    found: list[U] = []
    while route is not None:
        found.append(route.update)
        route = route.before
    return tuple(reversed(found))


def _by_source(updates: Iterable[U]) -> dict[str | None, list[U]]:
    found: dict[str | None, list[U]] = {}
    for update in updates:
        found.setdefault(update.source, []).append(update)
    return found


def leads_to(updates: Iterable[Edge], first: str, second: str) -> bool:
    """Whether ``second`` is ``first`` or can be reached from it: it is as good or better."""
    leaving = _by_source(updates)
    reached, left = {first}, [first]
    while left:
        for update in leaving.get(left.pop(), ()):
            if update.target not in reached:
                reached.add(update.target)
                left.append(update.target)
    return second in reached
