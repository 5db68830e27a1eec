"""Chunks from strangers, applied on every instruction set and by the oracle.

Payloads and tensors lie right before pages that cannot be touched, so a read or write that goes
too far ends the process.
"""

from __future__ import annotations

from dataclasses import dataclass

import oracle
from oracle.guard import Guarded

from p2u.codec import core
from p2u.errors import FormatError

TWINS = [isa for isa in (core.SCALAR, core.AVX2, core.AVX512, core.NEON) if core.isa(isa) == isa]


@dataclass(frozen=True)
class Case:
    """A valid payload, what it is for and what was there before."""

    name: str
    payload: bytes
    dtype: str
    item: int
    shapes: tuple[tuple[int, int], ...]
    before: bytes

    def segments(self, memory: bytes | memoryview) -> list[core.Segment]:
        out: list[core.Segment] = []
        at = 0
        for elems, cols in self.shapes:
            out.append(core.Segment(memory[at : at + elems * self.item], elems, cols))
            at += elems * self.item
        return out


ROOM_IN, ROOM_OUT = Guarded(1 << 20), Guarded(1 << 20)


def apply(case: Case, payload: bytes, isa: int = core.AUTO) -> bytes | None:
    """The bytes after the payload, or None if it was refused."""
    memory = ROOM_OUT.hold(case.before)
    try:
        core.apply(ROOM_IN.hold(payload), case.dtype, case.item, case.segments(memory), isa)
    except FormatError:
        return None
    return bytes(memory)


def apply_all(case: Case, payload: bytes) -> bytes | None:
    """The same on all instruction sets."""
    results = [apply(case, payload, isa) for isa in TWINS]
    assert all(r == results[0] for r in results)
    return results[0]


def apply_oracle(case: Case, payload: bytes) -> bytes | None:
    try:
        parts = oracle.decode_chunk(payload, case.dtype, case.item, case.segments(case.before))
    except oracle.Malformed:
        return None
    return b"".join(parts)


def check_like_the_oracle(case: Case, payload: bytes) -> None:
    expected = apply_oracle(case, payload)
    found = apply_all(case, payload)
    assert (found is None) == (expected is None)
    assert found == expected
