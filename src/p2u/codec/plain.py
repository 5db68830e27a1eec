"""Functions of the core on plain buffers: digests, comparison, entropy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from ctypes import addressof, byref, c_size_t, c_uint8, c_uint64, c_void_p
from typing import Any

from p2u.codec.core import _check, _CSource, _lib, _PinnedBuffers
from p2u.errors import UsageError


class Sha256:
    """SHA-256 of several streams at once; two of them take hardly longer than one.

    See :func:`sha256` for the machines that can.
    """

    def __init__(self, handle: int, count: int) -> None:
        self._handle = handle
        self._count = count

    def update(self, parts: Sequence[Any]) -> None:
        """Append to every stream its part: contiguous buffers, of any sizes.

        Raises:
            UsageError: The parts are not as many as the streams.
        """
        pinned = _PinnedBuffers((), writable=False)
        found = [pinned.address(part, writable=False) for part in parts]
        if len(found) != self._count:
            raise UsageError(f"{len(found)} parts for {self._count} streams")
        addresses = (c_void_p * len(found))(*(address for address, _ in found))
        sizes = (c_size_t * len(found))(*(size for _, size in found))
        _check(_lib().p2u_sha256_update(self._handle, addresses, sizes), "hash")

    def digest(self, index: int) -> bytes:
        """The digest of what was appended to one stream so far."""
        digest = (c_uint8 * 32)()
        _check(_lib().p2u_sha256_digest(self._handle, index, addressof(digest)), "hash")
        return bytes(digest)

    def digests(self) -> list[bytes]:
        """The digests of all streams."""
        return [self.digest(index) for index in range(self._count)]

    def restart(self, index: int) -> None:
        """Make one stream an empty one."""
        _check(_lib().p2u_sha256_restart(self._handle, index), "hash")

    def __del__(self) -> None:
        _lib().p2u_sha256_free(self._handle)


def sha256(count: int) -> Sha256 | None:
    """Hashes of ``count`` streams; None if the processor has no instructions for it."""
    handle = _lib().p2u_sha256_new(count)
    return Sha256(handle, count) if handle else None


def sha256_each(messages: Sequence[Any]) -> list[bytes]:
    """SHA-256 of each of some buffers, of any sizes; two of them take hardly longer than one."""
    streams = sha256(len(messages))
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
