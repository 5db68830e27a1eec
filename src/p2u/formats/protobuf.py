"""Read the wire format of Protocol Buffers: fields of messages, without a schema.

A message is a run of fields. A field is a tag (a varint: field number, wire type) and a value:
a varint, 4 bytes, 8 bytes, or a length and that many bytes, which may be a message in turn.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

from p2u.formats.reader import Reader

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
#: Bytes of a field whose tag has one byte, without what a length of one byte says, and where in it
#: the value begins.
SHORT = {VARINT: 2, FIXED64: 9, BYTES: 2, FIXED32: 5}
START = {FIXED64: 1, BYTES: 2, FIXED32: 1}
#: Field numbers have 29 bits.
MAX_TAG = 2**32 - 1
#: Of all messages of one file together: some 10 s of work. A graph of 100,000 nodes has 10^6.
MAX_FIELDS = 10_000_000

#: Number, wire type, and where its value begins and ends in the file; of a varint the value
#: itself in place of its begin.
Field = tuple[int, int, int, int]


class Wire:
    """Reads messages of one file; counts what it reads.

    Args:
        reader: The file.
        max_fields: Most fields that are read, over all messages.
    """

    def __init__(self, reader: Reader, *, max_fields: int = MAX_FIELDS) -> None:
        self.reader = reader
        self._max_fields = self._left = max_fields

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Read a varint.

        Args:
            at: Where it begins.
            end: Where what it is part of ends.

        Returns:
            Its value, below 2^64, and where it ends.

        Raises:
            FormatError: It is cut off, or larger.
        """
        data, base = self.reader.window(at)
        # Window and end: it is at most 10 bytes, and the window holds 16 but at the file's end.
        index, stop = at - base, min(end - base, len(data))
        value = shift = 0
        while index < stop:
            byte = data[index]
            index += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if value >> 64:
                    break
                return value, base + index
            shift += 7
            if shift == 70:
                break
        raise self.reader.wrong(f"the number at byte {at} is cut off or has more than 64 bits")

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message from ``start`` to ``end``.

        Raises:
            FormatError: Something is cut off, longer than the message, or no protobuf.
        """
        at = start
        while at < end:
            data, base = self.reader.window(at)
            index, stop = at - base, min(end - base, len(data) - 1)
            # Most fields have a tag and a number of one byte each: several times faster than below.
            while index + 1 < stop:
                tag, value = data[index], data[index + 1]
                if not 8 <= tag < 128 or value >= 128 or tag & 7 not in SHORT:
                    break
                size = SHORT[tag & 7] + (value if tag & 7 == BYTES else 0)
                if index + size > end - base:
                    break
                self._count()
                begin = value if tag & 7 == VARINT else base + index + START[tag & 7]
                index += size
                yield tag >> 3, tag & 7, begin, base + index
            at = base + index
            if at < end:
                found = self._field(at, end)
                at = found[3]
                yield found

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self.reader.wrong(f"it has more than {self._max_fields} protobuf fields")

    def _field(self, began: int, end: int) -> Field:
        """The field that begins at a byte; raises as `fields`."""
        self._count()
        tag, at = self.varint(began, end)
        number, kind = tag >> 3, tag & 7
        if number == 0 or tag > MAX_TAG or kind not in SHORT:
            raise self.reader.wrong(f"no protobuf field at byte {began}")
        if kind == VARINT:
            value, at = self.varint(at, end)
            return number, kind, value, at
        length = 4 if kind == FIXED32 else 8
        if kind == BYTES:
            length, at = self.varint(at, end)
        if length > end - at:
            raise self.reader.wrong(
                f"field {number} at byte {began} states {length} bytes, {end - at} are left"
            )
        return number, kind, at, at + length

    def numbers(self, field: Field, most: int) -> list[int]:
        """The values of a repeated varint field: one, or many that are packed.

        Raises:
            FormatError: More than ``most``, or not varints.
        """
        _, kind, at, end = field
        if kind == VARINT:
            return [at]
        out: list[int] = []
        while at < end and kind == BYTES:
            value, at = self.varint(at, end)
            out.append(value)
            if len(out) > most:
                raise self.reader.wrong(f"more than {most} numbers in a list before byte {at}")
        return out

    def text(self, field: Field, most: int) -> str:
        """The text of a field; what is not UTF-8 in it is replaced.

        Raises:
            FormatError: It has more than ``most`` bytes.
        """
        _, kind, at, end = field
        if kind != BYTES:
            return ""
        if end - at > most:
            raise self.reader.wrong(
                f"the name at byte {at} has {end - at} bytes, at most {most} are allowed"
            )
        return self.reader.read(at, end - at).decode("utf-8", "replace")
