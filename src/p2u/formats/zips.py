"""Read zip archives: where members lie, checked twice; nothing is ever decompressed.

Source: PKWARE's APPNOTE 6.3. The central directory says what there is; every local header must
agree with it, members must not overlap, and nothing is believed that the file has no room for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from p2u.errors import FormatError
from p2u.formats.reader import Reader
from p2u.types import Check

MAGIC = b"PK\3\4"
#: Limits of the central directory: bytes and members.
MAX_DIRECTORY = 64 << 20
MAX_MEMBERS = 1 << 20

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = (1 << 16) - 1
_FULL16, _FULL32 = (1 << 16) - 1, (1 << 32) - 1

#: Offsets of the CRC-32 in an entry of the directory and in a local header.
_ENTRY_CRC, _LOCAL_CRC = 16, 14
#: Flags: encrypted in one of three ways or a patch; sizes and CRC follow the data; UTF-8 name.
_SCRAMBLED, _DESCRIPTOR, _UTF8 = 0x2061, 8, 0x800


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive.

    Attributes:
        name: As the directory has it.
        stored: Whether its bytes lie in the archive as they are.
        start: First byte in the archive.
        size: Bytes in the archive.
        fields: Where its CRC-32 is kept, in order.
    """

    name: str
    stored: bool
    start: int
    size: int
    fields: tuple[int, ...]

    @property
    def check(self) -> Check:
        """The checksum of a stored member, and the bytes that it covers."""
        return Check("crc32", self.start, self.size, self.fields)


@dataclass(frozen=True, slots=True)
class _DirectoryEntry:
    """An entry of the central directory, at ``at`` in the file."""

    at: int
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


class Archive:
    """The members of a zip archive.

    Args:
        reader: The file.
        max_directory: Most bytes of its central directory.
        max_members: Most files in it.

    Attributes:
        members: In order of their place in the file.

    Raises:
        FormatError: It is malformed, or split over several disks.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        max_directory: int = MAX_DIRECTORY,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        self._reader = reader
        self._max_directory, self._max_members = max_directory, max_members
        self.members = tuple(self._members())

    def _wrong(self, message: str) -> FormatError:
        return self._reader.wrong(f"not a valid zip archive: {message}")

    def _directory(self) -> tuple[int, int, int]:
        """Offset, size and number of entries of the central directory."""
        size = min(self._reader.size, _END.size + _MAX_COMMENT)
        tail = self._reader.read(self._reader.size - size, size)
        at = len(tail) - _END.size + 1
        while (at := tail.rfind(b"PK\5\6", 0, at + 3)) >= 0:
            if len(tail) - at >= _END.size:
                end = _END.unpack_from(tail, at)
                if at + _END.size + end[7] == len(tail):
                    break
        else:
            raise self._wrong("it has no central directory")
        where = self._reader.size - size + at
        _, disk, first_disk, here, count, length, offset, _ = end
        if where >= _LOCATOR.size:
            locator = self._reader.read(where - _LOCATOR.size, _LOCATOR.size)
            if locator[:4] == b"PK\6\7":
                return self._directory64(locator, where - _LOCATOR.size, end)
        if disk or first_disk or here != count:
            raise self._wrong("it is split over several disks")
        if offset + length != where:
            raise self._wrong(f"the directory ends at byte {offset + length}, not at {where}")
        return offset, length, count

    def _directory64(
        self, locator: bytes, behind: int, end: tuple[int, ...]
    ) -> tuple[int, int, int]:
        """The same from the 64-bit record, which ends where its locator begins."""
        _, first_disk, where, disks = _LOCATOR.unpack(locator)
        if where + _END64.size > behind:
            raise self._wrong("the 64-bit record of its directory is not there")
        record = _END64.unpack(self._reader.read(where, _END64.size))
        magic, size, _, _, disk, other_disk, here, count, length, offset = record
        if magic != b"PK\6\6" or where + 12 + size != behind:
            raise self._wrong("the 64-bit record of its directory is not there")
        if first_disk or disks > 1 or disk or other_disk or here != count:
            raise self._wrong("it is split over several disks")
        for short, long, full in zip(
            end[3:7], (here, count, length, offset), (_FULL16,) * 2 + (_FULL32,) * 2, strict=True
        ):
            if short not in (long, full):
                raise self._wrong("its two directory records disagree")
        if offset + length != where:
            raise self._wrong(f"the directory ends at byte {offset + length}, not at {where}")
        return offset, length, count

    def _entries(self, offset: int, length: int, count: int) -> Iterator[_DirectoryEntry]:
        too_large = length > self._max_directory or count > self._max_members
        if too_large or not count * _ENTRY.size <= length:
            raise self._wrong(f"a directory of {count} members in {length} bytes")
        data = self._reader.read(offset, length)
        at = 0
        for _ in range(count):
            if length - at < _ENTRY.size:
                raise self._wrong("its directory ends within an entry")
            entry = _ENTRY.unpack_from(data, at)
            (magic, _, _, flags, method, _, _, crc, packed, size) = entry[:10]
            name_size, extra_size, comment_size, disk, _, _, where = entry[10:]
            begin = at
            at += _ENTRY.size
            name = data[at : at + name_size]
            extra = data[at + name_size : at + name_size + extra_size]
            at += name_size + extra_size + comment_size
            if magic != b"PK\1\2" or at > length:
                raise self._wrong("its directory ends within an entry")
            size, packed, where, disk = self._wide(
                extra, (size, packed, where, disk), (_FULL32,) * 3 + (_FULL16,)
            )
            if disk:
                raise self._wrong("it is split over several disks")
            yield _DirectoryEntry(offset + begin, name, flags, method, crc, packed, size, where)
        if at != length:
            raise self._wrong(f"{length - at} bytes follow its last directory entry")

    def _wide(
        self, extra: bytes, values: tuple[int, ...], full: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Values, those that are full replaced by the 64-bit ones of the extra field."""
        if not any(value == limit for value, limit in zip(values, full, strict=True)):
            return values
        found = b""
        at = 0
        while at + 4 <= len(extra):
            kind, size = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                found = extra[at + 4 : at + 4 + size]
                break
            at += 4 + size
        out = []
        at = 0
        for value, limit in zip(values, full, strict=True):
            width = 8 if limit == _FULL32 else 4
            if value == limit and at + width <= len(found):
                value = int.from_bytes(found[at : at + width], "little")
                at += width
            out.append(value)
        return tuple(out)

    def _members(self) -> Iterator[Member]:
        directory, length, count = self._directory()
        entries = sorted(self._entries(directory, length, count), key=lambda e: (e.offset, e.at))
        names = set()
        covered = 0
        for entry in entries:
            name = self._name(entry)
            if name in names:
                raise self._wrong(f"two members are called {name[:200]!r}")
            names.add(name)
            if entry.offset < covered:
                raise self._wrong(f"the member {name[:200]!r} overlaps another one")
            start, fields, covered = self._local(entry, name, directory)
            stored = entry.method == 0 and not entry.flags & _SCRAMBLED
            if stored and entry.packed != entry.size:
                raise self._wrong(f"the member {name[:200]!r} has two sizes")
            yield Member(name, stored, start, entry.packed, fields)

    def _name(self, entry: _DirectoryEntry) -> str:
        try:
            name = entry.name.decode("utf-8" if entry.flags & _UTF8 else "cp437")
        except UnicodeDecodeError:
            raise self._wrong("the name of a member is not UTF-8") from None
        parts = name.rstrip("/").split("/")
        if not name or "\0" in name or "\\" in name or {"", ".", ".."} & set(parts):
            raise self._wrong(f"{name[:200]!r} is no name for a member")
        return name

    def _local(
        self, entry: _DirectoryEntry, name: str, limit: int
    ) -> tuple[int, tuple[int, ...], int]:
        """Check a local header; first byte of the data, where the CRC is kept, end of the member.

        ``limit`` is where the directory begins.
        """
        wrong = self._wrong(
            f"the header of the member {name[:200]!r} is not what the directory says"
        )
        if entry.offset + _LOCAL.size > limit:
            raise wrong
        local = _LOCAL.unpack(self._reader.read(entry.offset, _LOCAL.size))
        magic, _, flags, method, _, _, crc, packed, size, name_size, extra_size = local
        start = entry.offset + _LOCAL.size + name_size + extra_size
        end = start + entry.packed
        if magic != MAGIC or end > limit or method != entry.method:
            raise wrong
        if (flags ^ entry.flags) & (_SCRAMBLED | _DESCRIPTOR):
            raise wrong
        rest = self._reader.read(entry.offset + _LOCAL.size, name_size + extra_size)
        if rest[:name_size] != entry.name:
            raise wrong
        size, packed = self._wide(rest[name_size:], (size, packed), (_FULL32,) * 2)
        expected = (entry.crc, entry.packed, entry.size)
        fields = [entry.at + _ENTRY_CRC]
        if crc == entry.crc:
            fields.append(entry.offset + _LOCAL_CRC)
        if not flags & _DESCRIPTOR:
            if (crc, packed, size) != expected:
                raise wrong
            return start, tuple(sorted(fields)), end
        # The header may hold zeros instead, or what it can not know yet: sizes without the CRC.
        if crc not in (0, entry.crc):
            raise wrong
        begin, end = self._descriptor(end, limit, expected, wrong)
        return start, tuple(sorted([*fields, begin])), end

    def _descriptor(
        self, at: int, limit: int, expected: tuple[int, int, int], wrong: FormatError
    ) -> tuple[int, int]:
        """The place of the CRC behind a member's data, and the end of its record."""
        data = self._reader.read(at, min(24, limit - at))
        for mark in (b"PK\7\x08", b""):
            for layout in ("<L2Q", "<3L"):
                size = struct.calcsize(layout)
                body = data[len(mark) : len(mark) + size]
                if not data.startswith(mark) or len(body) < size:
                    continue
                if struct.unpack(layout, body) == expected:
                    return at + len(mark), at + len(mark) + size
        raise wrong
