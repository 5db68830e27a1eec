"""Plan the requests for the bundles of a run; pure.

Nothing here reads or writes anything. The shapes it works on are stated as protocols, so that it
depends on no other module: manifests, indices and tests all fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class RequestSizes:
    """The sizes of requests, in bytes; the defaults suit any link.

    Attributes:
        least: Fewest bytes that are worth a request of their own while there is more than one
            chunk.
        most: Most bytes of one range, but for a single larger chunk: large enough for the link's
            delay not to matter, small enough for several connections to take turns in order.
        gap: Most bytes between two wanted ranges that are fetched and dropped rather than left out
            by a second request.
    """

    least: int = 256 << 10
    most: int = 4 << 20
    gap: int = 32 << 10


DEFAULT_SIZES = RequestSizes()


class Ranged(Protocol):
    """Something at ``start`` with ``length`` bytes in the blob number ``blob``."""

    @property
    def blob(self) -> int: ...  # noqa: D102
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102


#: The places and chunks of a bundle that are to be fetched.
Missing = Sequence[tuple[int, Ranged]]
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Request(Generic[B]):
    """Bundles that follow each other: one byte range of each update that has some of them."""

    bundles: tuple[B, ...]
    length: int


class _Group(Generic[B]):
    """Bundles of one request."""

    def __init__(self) -> None:
        self.bundles: list[B] = []
        self.length = 0
        #: By update: the blob, and begin and end of the range so far.
        self._ranges: dict[int, tuple[int, int, int]] = {}

    def add(self, bundle: B, missing: Missing, sizes: RequestSizes, most: float) -> bool:
        """Append a bundle if its chunks follow the others, and all fits; whether it was done.

        Args:
            bundle: The bundle.
            missing: Its chunks.
            sizes: Limits of each range.
            most: Most bytes of all ranges.
        """
        length = self.length
        ranges = {}
        for update, chunk in missing:
            first = chunk.blob, chunk.start, chunk.start
            blob, start, end = self._ranges.get(update, first)
            stop = chunk.start + chunk.length
            if chunk.blob != blob or not end <= chunk.start <= end + sizes.gap:
                return False
            if self.bundles and stop - start > max(sizes.least, sizes.most):
                return False
            length += stop - end
            ranges[update] = blob, start, stop
        if self.bundles and missing and length > most:
            return False
        self.bundles.append(bundle)
        self.length = length
        self._ranges.update(ranges)
        return True

    def request(self) -> Request[B]:
        """The request."""
        return Request(tuple(self.bundles), self.length)


def plan_requests(
    bundles: Iterable[B],
    missing: Callable[[B], Missing],
    *,
    ranges: bool = True,
    jobs: int = 1,
    sizes: RequestSizes = DEFAULT_SIZES,
    order: Callable[[B], Any] | None = None,
) -> tuple[Request[B], ...]:
    """The requests for all these bundles.

    Args:
        bundles: Those missing, in the order wanted; neighbours in it are joined to one request when
            all their chunks follow each other in their blobs.
        missing: The chunks of a bundle that are to be fetched.
        ranges: False if the server only delivers whole blobs: then bundles of the same blobs are
            one request, each of whose ranges begins at the beginning of its blob.
        jobs: Threads that share the requests. These shrink towards the end, so that all threads
            end at about the same time (guided self-scheduling, Polychronopoulos and Kuck 1987).
        sizes: How many bytes to ask for at a time.
        order: Sorts the requests by their first bundles.
    """
    pairs = [(bundle, missing(bundle)) for bundle in bundles]
    found = _joined(pairs, jobs, sizes) if ranges else _whole(pairs)
    if order is not None:
        key = order
        found.sort(key=lambda request: key(request.bundles[0]))
    return tuple(found)


def _joined(pairs: Sequence[tuple[B, Missing]], jobs: int, sizes: RequestSizes) -> list[Request[B]]:
    left = sum(chunk.length for _, chunks in pairs for _, chunk in chunks)
    groups: list[_Group[B]] = []
    most = 0
    for bundle, chunks in pairs:
        if not groups or not groups[-1].add(bundle, chunks, sizes, most):
            groups.append(_Group())
            most = max(sizes.least, left // (2 * jobs))
            groups[-1].add(bundle, chunks, sizes, most)
        left -= sum(chunk.length for _, chunk in chunks)
    return [group.request() for group in groups]


def _whole(pairs: Sequence[tuple[B, Missing]]) -> list[Request[B]]:
    groups: dict[tuple[tuple[int, int], ...], list[tuple[B, Missing]]] = {}
    for bundle, chunks in pairs:
        blobs = tuple((update, chunk.blob) for update, chunk in chunks)
        groups.setdefault(blobs, []).append((bundle, chunks))
    found = []
    for group in groups.values():
        group.sort(key=lambda pair: [chunk.start for _, chunk in pair[1]])
        ends = [chunk.start + chunk.length for _, chunk in group[-1][1]]
        found.append(Request(tuple(bundle for bundle, _ in group), sum(ends)))
    return found
