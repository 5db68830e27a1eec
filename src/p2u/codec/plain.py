"""Functions of the core on plain buffers: digests, comparison, entropy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from ctypes import byref, c_uint64
from typing import Any

from p2u.codec import core
from p2u.codec.core import _check, _CSource, _lib, _PinnedBuffers


def sha256_each(messages: Sequence[Any]) -> list[bytes]:
    """SHA-256 of each of some buffers, of any sizes; two of them take hardly longer than one."""
    streams = core.sha256(len(messages))
    if streams is None:  # no instructions for it
        return [hashlib.sha256(message).digest() for message in messages]
    streams.update(messages)
    return streams.digests()


def opaque_bits(item: int, runs: Sequence[Any]) -> int:
    """Bits that the bytes of some runs of elements take without levels, in 1/256, tables aside.

    Raises:
        UsageError: A run does not hold whole elements.
    """
    pinned, out = _PinnedBuffers((), writable=False), c_uint64()
    found = (_CSource * len(runs))()
    for raw, run in zip(found, runs, strict=True):
        raw.mem, raw.bytes = pinned.address(run, writable=False)
    _check(_lib().p2u_opaque_bits(item, found, len(found), byref(out)), "count")
    return out.value


def equal(a: Any, b: Any) -> bool:
    """Whether two buffers hold the same bytes; Python compares memoryviews one item at a time."""
    pinned = _PinnedBuffers((), writable=False)
    (first, size), (second, other) = (pinned.address(buffer, writable=False) for buffer in (a, b))
    return size == other and bool(_lib().p2u_equal(first, second, size))
