"""Bundles: the chunks that are fetched and decoded together, and what a run fetches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from p2u.package.geometry import Chunk
from p2u.package.manifest import Blob


@dataclass(frozen=True, slots=True)
class Bundle:
    """One chunk or, of several updates, those that hold the same bytes.

    Attributes:
        number: Its place among all bundles of the updates; of a single update, the chunk's number.
        updates: Place of each chunk's update among the updates, ascending.
        chunks: The chunks.
    """

    number: int
    updates: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def length(self) -> int:
        """Bytes of all payloads."""
        return sum(chunk.length for chunk in self.chunks)


_FIRST = (0,)


def single_bundles(chunks: Iterable[Chunk]) -> tuple[Bundle, ...]:
    """A bundle for each chunk of one update."""
    return tuple(Bundle(chunk.number, _FIRST, (chunk,)) for chunk in chunks)


def common_bundles(levels: Sequence[Sequence[Chunk]]) -> tuple[Bundle, ...] | None:
    """The bundles of updates that follow each other, in the order of the first one's chunks.

    Args:
        levels: The chunks of each update.

    Returns:
        None unless each chunk holds exactly the bytes of one of the first update's chunks.
    """
    found: dict[Any, list[tuple[int, Chunk]]] = {}
    for chunk in levels[0]:
        found[chunk.segments, chunk.pieces] = [(0, chunk)]
    for number, chunks in enumerate(levels[1:], 1):
        for chunk in chunks:
            held = found.get((chunk.segments, chunk.pieces))
            if held is None:
                return None
            held.append((number, chunk))
    return tuple(
        Bundle(number, tuple(n for n, _ in held), tuple(chunk for _, chunk in held))
        for number, held in enumerate(found.values())
    )


@dataclass(frozen=True)
class Wanted:
    """The bundles that a run fetches.

    Attributes:
        blobs: Of each update.
        bundles: Those missing, in the order wanted.
        held: Payloads that are here and checked, by the update's place and the chunk's number; the
            run removes those that it has applied. (The core takes writable memory as it is.)
        order: Sorts the requests by their first bundles; None: as the bundles are.
    """

    blobs: tuple[tuple[Blob, ...], ...]
    bundles: tuple[Bundle, ...]
    held: dict[tuple[int, int], bytearray] = field(default_factory=dict)
    order: Callable[[Bundle], Any] | None = None

    @classmethod
    def of(cls, blobs: Sequence[Blob], chunks: Iterable[Chunk]) -> Wanted:
        """Chunks of one update."""
        return cls((tuple(blobs),), single_bundles(chunks))

    def same(self, other: Wanted) -> bool:
        """Whether another one asks for the same bytes."""
        return (self.blobs, self.bundles) == (other.blobs, other.bundles)

    def missing(self, bundle: Bundle) -> list[tuple[int, Chunk]]:
        """The chunks of a bundle that are not held, each with its update's place."""
        pairs = zip(bundle.updates, bundle.chunks, strict=True)
        if not self.held:
            return list(pairs)
        return [(n, chunk) for n, chunk in pairs if (n, chunk.number) not in self.held]

    @cached_property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(chunk.length for bundle in self.bundles for _, chunk in self.missing(bundle))
