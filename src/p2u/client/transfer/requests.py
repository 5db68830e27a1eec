"""Plan the requests for the chunks of an update; pure.

Nothing here reads or writes anything. The shapes it works on are stated as protocols, so that it
depends on no other module: manifests, indices and tests all fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class RequestSizes:
    """The sizes of requests, in bytes; the defaults suit any link.

    Attributes:
        least: Fewest bytes that are worth a request of their own while there is more than one
            chunk.
        most: Most bytes of one request, but for a single larger chunk: large enough for the link's
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


C = TypeVar("C", bound=Ranged)


@dataclass(frozen=True, slots=True)
class Request(Generic[C]):
    """One byte range of a blob, and the chunks in it, in order of their start."""

    blob: int
    start: int
    length: int
    chunks: tuple[C, ...]


def plan_requests(
    chunks: Iterable[C],
    *,
    ranges: bool = True,
    jobs: int = 1,
    sizes: RequestSizes = DEFAULT_SIZES,
) -> tuple[Request[C], ...]:
    """Byte ranges that hold all these chunks.

    Args:
        chunks: Those missing, in the order wanted; neighbours in it are joined to one request when
            they follow each other in one blob.
        ranges: False if the server only delivers whole blobs: then one request per blob, from its
            beginning to the end of the last chunk missing there.
        jobs: Threads that share the requests. These shrink towards the end, so that all threads
            end at about the same time (guided self-scheduling, Polychronopoulos and Kuck 1987).
        sizes: How many bytes to ask for at a time.
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
                and end <= chunk.start <= end + sizes.gap
                and chunk.start + chunk.length - first.start <= most
            ):
                groups[-1].append(chunk)
                left -= chunk.length
                continue
        groups.append([chunk])
        most = max(sizes.least, min(sizes.most, left // (2 * jobs)))
        left -= chunk.length
    return tuple(_request(group, group[0].start) for group in groups)


def _request(group: list[C], start: int) -> Request[C]:
    last = group[-1]
    return Request(last.blob, start, last.start + last.length - start, tuple(group))
