"""The journal of one stretch: which of its bundles are on disk, checked when read back.

Append-only. A header of 72 bytes, then records of 13 bytes, each with a CRC, so that a record cut
off by a crash is recognised. A record is a claim: the caller checks it with its checksum.
"""

from __future__ import annotations

import errno
import struct
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from p2u.disk.durable import sync
from p2u.disk.errors import disk_errors
from p2u.disk.files import read_small

_HEADER = struct.Struct("<4sBB2x32s28s")
_RECORD = struct.Struct("<BII")
_CRC = struct.Struct("<I")
_MAGIC = b"P2UJ"
_VERSION = 1
_BUNDLE, _READY = 1, 2
#: Bytes of a journal that are read: an index has no more chunks.
_LIMIT = 512 << 20


def checksum(parts: Iterable[memoryview | bytes], found: int = 0) -> int:
    """The CRC-32 of bytes, back to back, behind others with the checksum ``found``.

    It detects accidents. Whoever can change the work folder can change the target, too.
    """
    for part in parts:
        found = zlib.crc32(part, found)
    return found


@dataclass(frozen=True, slots=True)
class Header:
    """The stretch and the target of a journal.

    Attributes:
        in_place: Whether files are refined where they lie.
        identity: 32 bytes: digest of all that determines what the bundles' numbers mean.
        target: 28 bytes: beginning of the digest of the state that the stretch leads to.
    """

    in_place: bool
    identity: bytes
    target: bytes

    def pack(self) -> bytes:
        """The header's bytes."""
        head = _HEADER.pack(_MAGIC, _VERSION, int(self.in_place), self.identity, self.target)
        return head + _CRC.pack(zlib.crc32(head))


_HEADER_SIZE = _HEADER.size + _CRC.size
_RECORD_SIZE = _RECORD.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Content:
    """A journal as it was found.

    Attributes:
        header: Its header.
        done: Bundle number to checksum of its decoded bytes.
        ready: Whether the stretch was seen complete, checked and on the disk.
        size: Bytes of the file that are valid.
    """

    header: Header
    done: dict[int, int]
    ready: bool
    size: int


def read_journal(path: Path) -> Content | None:
    """The valid part of a journal; None if there is none.

    Raises:
        DiskError: It cannot be read, or is no file.
    """
    with disk_errors(path, "read"):
        data = read_small(path, _LIMIT)
    if data is None:
        return None
    head = data[: _HEADER.size]
    if len(data) < _HEADER_SIZE or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(head):
        return None
    magic, version, in_place, identity, target = _HEADER.unpack(head)
    if magic != _MAGIC or version != _VERSION:
        return None
    done: dict[int, int] = {}
    ready = False
    at = _HEADER_SIZE
    seed = zlib.crc32(data[:_HEADER_SIZE])
    while at + _RECORD_SIZE <= len(data):
        record = data[at : at + _RECORD.size]
        if _CRC.unpack_from(data, at + _RECORD.size)[0] != zlib.crc32(record, seed):
            break
        kind, number, found = _RECORD.unpack(record)
        if kind == _BUNDLE:
            done[number] = found
        ready = ready or kind == _READY
        at += _RECORD_SIZE
    return Content(Header(bool(in_place), identity, target), done, ready, at)


class Journal:
    """A journal to append to. Thread-safe.

    Args:
        path: The file; replaced unless ``keep`` is its content.
        header: What it is about.
        keep: The content to go on with; a torn end is cut off.
    """

    def __init__(self, path: Path, header: Header, keep: Content | None = None) -> None:
        head = header.pack()
        self._seed = zlib.crc32(head)
        self._lock = threading.Lock()
        self._file = open(path, "rb+" if keep else "wb", buffering=0)  # noqa: SIM115
        if keep is None:
            self._file.write(head)
            sync(self._file)
        else:
            self._file.truncate(keep.size)
            self._file.seek(keep.size)

    def done(self, number: int, found: int) -> None:
        """The bundle's decoded bytes, with this checksum, are in their files."""
        self._append(_BUNDLE, number, found)

    def ready(self) -> None:
        """All is complete, checked and on the disk."""
        self._append(_READY, 0, 0)
        self.sync()

    def sync(self) -> None:
        """Wait until the records are on the disk."""
        sync(self._file)

    def _append(self, kind: int, number: int, found: int) -> None:
        record = _RECORD.pack(kind, number, found)
        data = record + _CRC.pack(zlib.crc32(record, self._seed))
        with self._lock:
            at = self._file.tell()
            written = self._file.write(data)
            if written != len(data):
                # A full disk: what is there must not hide the records that follow.
                self._file.truncate(at)
                self._file.seek(at)
                raise OSError(errno.ENOSPC, "No space left on device", self._file.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
