"""Compare payloads with their digests, two at a time where the processor can hash so."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from p2u.codec import core

#: A payload and the SHA-256 that it should have.
Claim = tuple[memoryview, bytes]

#: Bytes below which setting up two streams costs more than it saves.
_LEAST = 64 << 10


@lru_cache(maxsize=1)
def pairs_are_faster() -> bool:
    """Whether this processor hashes two streams in the time of one."""
    return core.sha256(2) is not None


def wrong(claims: Sequence[Claim]) -> list[int]:
    """The places of the payloads that do not have their digest."""
    # Neighbours in this order are of about one length.
    order = sorted(range(len(claims)), key=lambda n: len(claims[n][0]), reverse=True)
    found: list[int] = []
    while order:
        first = order.pop(0)
        if order and len(claims[order[0]][0]) >= _LEAST and pairs_are_faster():
            second = order.pop(0)
            digests = _in_step(claims[first][0], claims[second][0])
            places = [first, second]
        else:
            digests = [hashlib.sha256(claims[first][0]).digest()]
            places = [first]
        found += [n for n, digest in zip(places, digests, strict=True) if digest != claims[n][1]]
    return sorted(found)


def _in_step(longer: memoryview, shorter: memoryview) -> list[bytes]:
    streams = core.sha256(2)
    assert streams is not None
    both = len(shorter)
    streams.update((longer[:both], shorter))
    second = streams.digests()[1]
    if both < len(longer):
        # Both streams have to advance; the second one's digest was taken.
        streams.update((longer[both:], longer[both:]))
    return [streams.digests()[0], second]
