"""Bytes, varints and bit fields (SPEC.md 6.1)."""

from __future__ import annotations


class Malformed(Exception):  # noqa: N818 - what a decoder says of a payload
    """The payload is not one that a writer may produce."""


class Source:
    """A payload being read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Malformed("it ends before its content does")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def i16(self) -> int:
        return int.from_bytes(self.take(2), "little", signed=True)

    def varint(self) -> int:
        value = 0
        for place in range(5):
            byte = self.u8()
            value += (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                break
        else:
            raise Malformed("a varint has more than five bytes")
        if value >= 1 << 32:
            raise Malformed("a varint does not fit 32 bits")
        return value

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed("bytes follow its content")


class BitSource:
    """Bit fields, least significant bit first, from where a source stands."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.left = 0
        self.byte = 0

    def bit(self) -> int:
        if self.left == 0:
            self.byte, self.left = self.source.u8(), 8
        value = self.byte & 1
        self.byte >>= 1
        self.left -= 1
        return value

    def take(self, width: int) -> int:
        return sum(self.bit() << place for place in range(width))

    def unary(self, most: int) -> int:
        """Number of zero bits before the next one bit."""
        count = 0
        while self.bit() == 0:
            count += 1
            if count > most:
                raise Malformed("a unary number is too long")
        return count


class Run:
    """Bit fields of any width behind their size in bytes, exactly as many as they need."""

    def __init__(self, source: Source) -> None:
        self._data = source.take(source.varint())
        self._at = 0

    def take(self, width: int) -> int:
        start, end = self._at // 8, -(-(self._at + width) // 8)
        if end > len(self._data):
            raise Malformed("there are too few bit fields")
        value = int.from_bytes(self._data[start:end], "little") >> self._at % 8
        self._at += width
        return value % (1 << width)

    def align(self) -> None:
        self._at = -(-self._at // 8) * 8

    def end(self) -> None:
        if -(-self._at // 8) != len(self._data):
            raise Malformed("there are too many bit fields")


class Sink(bytearray):
    """A payload being written."""

    def u8(self, value: int) -> None:
        self.append(value)

    def u32(self, value: int) -> None:
        self.extend(value.to_bytes(4, "little"))

    def i16(self, value: int) -> None:
        self.extend(value.to_bytes(2, "little", signed=True))

    def varint(self, value: int) -> None:
        while value >= 0x80:
            self.append(value % 0x80 + 0x80)
            value //= 0x80
        self.append(value)

    def run(self, bits: Bits) -> None:
        """Bit fields behind their size in bytes."""
        fields = bits.to_bytes()
        self.varint(len(fields))
        self.extend(fields)


class Bits:
    """Bit fields being collected, least significant bit first."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def put(self, value: int, width: int) -> None:
        assert 0 <= value < 1 << width
        self.bits += [value >> place & 1 for place in range(width)]

    def unary(self, count: int) -> None:
        self.bits += [0] * count + [1]

    def align(self) -> None:
        self.bits += [0] * (-len(self.bits) % 8)

    def to_bytes(self) -> bytes:
        self.align()
        number = int("".join(map(str, reversed(self.bits))) or "0", 2)
        return number.to_bytes(len(self.bits) // 8, "little")


def zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(code: int) -> int:
    return code // 2 if code % 2 == 0 else -(code + 1) // 2
