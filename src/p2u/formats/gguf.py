"""GGUF, versions 2 and 3: the spans of one file.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Layout: magic, version, counts,
metadata (key, type, value), tensor infos (name, sizes, type, offset), padding, tensors.

Elements of plain types have levels or are exact; blocks of quantised types are opaque under their
type's name (``Q4_K``). Big-endian files and version 1 are refused. Each file of a split model
(``-00001-of-00003.gguf``) is a valid one of its own.
"""

from __future__ import annotations

import struct

from p2u.errors import UnsupportedError
from p2u.formats.reader import Reader, reading
from p2u.types import ELEMENT_TYPES, Scan, TensorSpan

SUFFIXES: tuple[str, ...] = (".gguf",)
MAGIC = b"GGUF"
VERSIONS = (2, 3)
#: Read as little-endian, a big-endian file of these versions has such a number.
SWAPPED = tuple(int.from_bytes(v.to_bytes(4, "big"), "little") for v in (1, *VERSIONS))

MAX_TENSORS = 1_000_000
#: Strings, keys and nested arrays of the metadata, which are visited one by one: seconds of work.
#: A large vocabulary has 300,000 tokens and as many merges.
MAX_ITEMS = 10_000_000
#: The format says 4 for now.
MAX_DIMS = 64
#: Bytes of a tensor's name (the format says 64) and of a key (the format says 65535).
MAX_NAME = 1 << 16
#: Arrays within arrays.
MAX_DEPTH = 16
MAX_SIZE = 2**63 - 1
MAX_ALIGNMENT = 1 << 30

#: Bytes of the metadata types of a fixed size.
FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
UINT32, STRING, ARRAY = 4, 8, 9

#: By ``ggml_type``.
TYPES = {t.ggml: t for t in ELEMENT_TYPES if t.ggml is not None}


class _GgufWalk:
    """Reads a file's structure from its begin on.

    Attributes:
        at: Where, in bytes.
        alignment: Of the tensors, in bytes.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.at = 0
        self.alignment = 32
        self._left = MAX_ITEMS

    def number(self, size: int) -> int:
        """Read an unsigned number of ``size`` bytes."""
        value = int.from_bytes(self.reader.read(self.at, size), "little")
        self.at += size
        return value

    def count(self, what: str, least: int, most: int) -> int:
        """Read how many things follow; each takes ``least`` bytes, and so they must be there."""
        value = self.number(8)
        if value > most or value * least > self.reader.size - self.at:
            raise self.reader.wrong(
                f"it states {value} {what} at byte {self.at - 8}, of a file of {self.reader.size}"
            )
        return value

    def text(self, what: str) -> str:
        """Read a name."""
        length = self.count(f"bytes of {what}", 1, MAX_NAME)
        raw = self.reader.read(self.at, length)
        self.at += length
        return raw.decode("utf-8", "replace")

    def skip(self, kind: int, depth: int = 0) -> None:
        """Skip a value of the metadata."""
        if kind in FIXED:
            self._skip_bytes(FIXED[kind])
        elif kind == STRING:
            self._skip_bytes(self.count("bytes of text", 1, MAX_SIZE))
        elif kind == ARRAY and depth < MAX_DEPTH:
            kind = self.number(4)
            if kind in FIXED:
                self._skip_bytes(self.count("numbers", FIXED[kind], MAX_SIZE) * FIXED[kind])
                return
            count = self.count("items", 8, self._left)
            self._left -= count
            if kind == STRING:
                self._skip_texts(count)
                return
            for _ in range(count):
                self.skip(kind, depth + 1)
        else:
            raise self.reader.wrong(
                f"metadata of unknown type {kind}, or nested too deeply, before byte {self.at}"
            )

    def _skip_texts(self, count: int) -> None:
        """As `skip` for each: a vocabulary has hundreds of thousands."""
        while count:
            data, base = self.reader.window(min(self.at, self.reader.size))
            index, last = self.at - base, len(data) - 8
            if index > last:
                raise self.reader.wrong("the file ends within the texts of the metadata")
            while index <= last and count:
                index += 8 + int.from_bytes(data[index : index + 8], "little")
                count -= 1
            self.at = base + index
        self._skip_bytes(0)  # the last one's end

    def _skip_bytes(self, count: int) -> None:
        if count > self.reader.size - self.at:
            raise self.reader.wrong(f"the file ends within the metadata, {count} bytes are stated")
        self.at += count

    def metadata(self, count: int) -> None:
        """Skip all metadata but the alignment."""
        for _ in range(count):
            key = self.text("a key")
            kind = self.number(4)
            if key != "general.alignment":
                self.skip(kind)
                continue
            value = self.number(4)
            if kind != UINT32 or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
                raise self.reader.wrong(f"general.alignment is no power of two: {value}")
            self.alignment = value

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Read a tensor's name, shape (outermost first), type and offset."""
        name = self.text("a tensor's name")
        dims = self.number(4)
        if dims > MAX_DIMS:
            raise self.reader.wrong(f"{dims} dimensions, at most {MAX_DIMS} are allowed", name)
        shape = struct.unpack(f"<{dims}Q", self.reader.read(self.at, 8 * dims))
        self.at += 8 * dims
        return name, shape[::-1], self.number(4), self.number(8)


def _length(reader: Reader, name: str, shape: tuple[int, ...], kind: int, room: int) -> int:
    """Bytes of a tensor.

    Args:
        reader: For messages.
        name: For messages.
        shape: Outermost first.
        kind: Its ``ggml_type``.
        room: Bytes up to the next tensor or the file's end.

    Raises:
        FormatError: They are not there, or the rows are not whole blocks.
    """
    if kind not in TYPES:
        return room
    found = TYPES[kind]
    elems = 1
    for dim in shape:
        elems *= dim
        if elems > MAX_SIZE:
            raise reader.wrong("the number of elements is beyond 2^63 - 1", name)
    row = shape[-1] if shape else 1
    if row % found.elems:
        raise reader.wrong(f"rows of {row} elements are no whole blocks of {found.name}", name)
    length = elems // found.elems * found.size
    if length > room:
        raise reader.wrong(
            f"{str(list(shape))[:80]} of {found.name} takes {length} bytes, {room} are there", name
        )
    return length


def _version(reader: Reader) -> None:
    """Check magic and version."""
    head = reader.read(0, min(8, reader.size))
    if head[:4] != MAGIC or len(head) < 8:
        raise reader.wrong("not a GGUF file: it does not begin with GGUF and a version")
    version = int.from_bytes(head[4:], "little")
    if version not in VERSIONS:
        what = "big-endian" if version in SWAPPED else f"of version {version}"
        raise UnsupportedError(
            f"a GGUF file that is {what}; supported are little-endian versions 2 and 3",
            file=reader.file,
            hint="Convert it with llama.cpp's tools",
        )


def matches(file: str, head: bytes) -> bool:
    """Whether a file is GGUF by its name, or by its first bytes (Ollama's have no suffix)."""
    versions = {v.to_bytes(4, order) for v in VERSIONS for order in ("little", "big")}
    return file.endswith(SUFFIXES) or (head[:4] == MAGIC and head[4:8] in versions)


def scan(path: str, file: str) -> Scan:
    """List the tensors of a GGUF file.

    Args:
        path: Where the file is.
        file: What the spans and the messages call it.

    Returns:
        Its size, and its spans in order of offset. A tensor of an unknown type reaches to the
        next one, as ``GGML_`` and the number of its type.

    Raises:
        DiskError: The file cannot be read.
        FormatError: It is not a valid GGUF file.
        UnsupportedError: It is big-endian, or of another version.
    """
    with reading(path, file) as reader:
        _version(reader)
        walk = _GgufWalk(reader)
        walk.at = 8
        tensors = walk.count("tensors", 24, MAX_TENSORS)
        walk.metadata(walk.count("metadata", 13, MAX_ITEMS))
        infos = sorted((walk.info() for _ in range(tensors)), key=lambda info: info[3])
        start = -(-walk.at // walk.alignment) * walk.alignment
        if infos and start > reader.size:
            raise reader.wrong(f"it ends at byte {reader.size}, before its tensors at {start}")
        spans = []
        stops = [*(info[3] for info in infos), reader.size - start][1:]
        for (name, shape, kind, offset), stop in zip(infos, stops, strict=True):
            if offset % walk.alignment or offset > reader.size - start:
                raise reader.wrong(f"its offset {offset} is not aligned or beyond the end", name)
            length = _length(reader, name, shape, kind, stop - offset)
            dtype = TYPES[kind].name if kind in TYPES else f"GGML_{kind}"
            spans.append(TensorSpan(name, dtype, shape, file, start + offset, length))
        return Scan(reader.size, tuple(spans))
