"""An encoded chunk, whose payloads are in this process or held by an engine elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, slots=True)
class HeldPayload:
    """A payload that an engine holds in another process, until a blob has it.

    Attributes:
        held: The engine's own name of the bytes that the payload is a part of.
        start: Its offset in them.
        size: Its bytes.
    """

    held: Any
    start: int
    size: int

    def __len__(self) -> int:
        return self.size


#: The bytes of a payload, or where they are held.
Payload = bytes | HeldPayload
P_co = TypeVar("P_co", bound=Payload, covariant=True)


@dataclass(frozen=True, slots=True)
class Coded(Generic[P_co]):
    """A chunk in all updates.

    Attributes:
        payloads: One per update; the first alone if the chunk is exact from the base on.
        signal: Sum of squares of its weights, if it is a progressive one.
        errors: Sum of squared errors in each state.
        digests: SHA-256 of each payload, once they are known.
        sums: In each update's state, checksums of the chunk's parts that a file checks.
    """

    payloads: tuple[P_co, ...]
    signal: float = 0.0
    errors: tuple[float, ...] = ()
    digests: tuple[bytes, ...] = ()
    sums: tuple[tuple[int, ...], ...] = ()
