"""Compare payloads with their digests, two at a time where the processor can hash so."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from p2u.codec import plain

#: A payload and the SHA-256 that it should have.
Claim = tuple[memoryview, bytes]

#: Bytes below which setting up two streams costs more than it saves.
_LEAST = 64 << 10


@lru_cache(maxsize=1)
def pairs_are_faster() -> bool:
    """Whether this processor hashes two streams in the time of one."""
    return plain.sha256(2) is not None


def wrong(claims: Sequence[Claim]) -> list[int]:
    """The places of the payloads that do not have their digest."""
    # Neighbours in this order are of about one length.
    order = sorted(range(len(claims)), key=lambda n: len(claims[n][0]), reverse=True)
    found: list[int] = []
    while order:
        count = 1
        if len(order) > 1 and len(claims[order[1]][0]) >= _LEAST and pairs_are_faster():
            # The core hashes three streams as fast as a pair and a half.
            count = 3 if len(order) == 3 else 2
        places, order = order[:count], order[count:]
        digests = _in_step([claims[n][0] for n in places])
        found += [n for n, digest in zip(places, digests, strict=True) if digest != claims[n][1]]
    return sorted(found)


def _in_step(payloads: Sequence[memoryview]) -> list[bytes]:
    """The digests of payloads, the longest of which is the first."""
    streams = plain.sha256(len(payloads)) if len(payloads) > 1 else None
    if streams is None:
        return [hashlib.sha256(payload).digest() for payload in payloads]
    digests = [b""] * len(payloads)
    at = 0
    for place in reversed(range(len(payloads))):
        end = len(payloads[place])
        # All streams have to advance. Those whose end is behind have had their digests taken.
        parts = [payload[at:end] for payload in payloads[: place + 1]]
        streams.update(parts + [parts[-1]] * (len(payloads) - len(parts)))
        digests[place] = streams.digests()[place]
        at = end
    return digests
