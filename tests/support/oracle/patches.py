"""Elements that travel whole (SPEC.md 6.3)."""

from __future__ import annotations

import numpy as np

from oracle.floats import Flags, Format, Ints
from oracle.wire import Malformed, Sink, Source


def read_patches(source: Source, f: Format, bits: Ints) -> tuple[Ints, Flags]:
    """The elements with those that travel whole, and which these are."""
    bits, patched, at = bits.copy(), np.zeros(len(bits), bool), -1
    for _ in range(source.varint()):
        at += 1 + source.varint()
        value = int.from_bytes(source.take(f.size), "little")
        if at >= len(bits):
            raise Malformed("a patch is of an element that does not exist")
        bits[at], patched[at] = value, True
    return bits, patched


def write_patches(sink: Sink, f: Format, bits: Ints, patched: Flags) -> None:
    at = np.flatnonzero(patched)
    sink.varint(len(at))
    for i, gap in zip(at, np.diff(at, prepend=-1) - 1, strict=True):
        sink.varint(int(gap))
        sink += int(bits[i]).to_bytes(f.size, "little")
