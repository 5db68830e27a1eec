"""Zip archives: what Python's zipfile writes is found, and lies are refused."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import FormatError
from p2u.formats.reader import reading
from p2u.formats.zips import Archive, Member


def members(content: bytes, path: Path, **limits: int) -> tuple[Member, ...]:
    path.write_bytes(content)
    with reading(str(path), "shown.zip") as reader:
        return Archive(reader, **limits).members


def made(
    *entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED, wide: bool = False
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=wide) as stream:
                stream.write(data)
    return out.getvalue()


class Unseekable(io.RawIOBase):
    """What zipfile writes to a pipe has data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += data
        return len(data)


def described(*entries: tuple[str, bytes], wide: bool = False) -> bytes:
    out = Unseekable()
    with zipfile.ZipFile(out, "w") as archive:  # type: ignore[arg-type]
        for name, data in entries:
            with archive.open(name, "w", force_zip64=wide) as stream:
                stream.write(data)
    return bytes(out.data)


A, B = ("a/one", b"first content"), ("two.bin", bytes(range(200)))
PLAIN = made(A, B)


def field(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "little")


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("make", [made, described])
def test_members_and_their_checksums_are_found(make, wide: bool, tmp_path: Path) -> None:
    content = make(A, B, ("none", b""), wide=wide)
    found = members(content, tmp_path / "z")
    assert [m.name for m in found] == ["a/one", "two.bin", "none"]
    for m, (_, data) in zip(found, (A, B, ("", b"")), strict=True):
        assert m.stored
        assert content[m.start : m.start + m.size] == data
        # In the directory, and in the header or behind the data; all of them say the same.
        assert len(m.fields) >= 2
        assert {field(content, at) for at in m.fields} == {zlib.crc32(data)}
        assert (m.check.start, m.check.length, m.check.fields) == (m.start, m.size, m.fields)
    # No other place holds a checksum: with all of them changed alike it is a valid archive.
    changed = bytearray(content)
    m = found[1]
    changed[m.start : m.start + m.size] = b"\7" * m.size
    for at in m.fields:
        changed[at : at + 4] = zlib.crc32(b"\7" * m.size).to_bytes(4, "little")
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        assert archive.testzip() is None
        assert archive.read("two.bin") == b"\7" * m.size
    assert [m.name for m in members(bytes(changed), tmp_path / "z")] == [m.name for m in found]


def test_compressed_and_encrypted_members_are_not_stored(tmp_path: Path) -> None:
    (m,) = members(made(("x", b"x" * 999), method=zipfile.ZIP_DEFLATED), tmp_path / "z")
    assert not m.stored
    content = bytearray(made(A))
    at = content.index(b"PK\1\2")
    content[6] |= 1
    content[at + 8] |= 1
    (m,) = members(bytes(content), tmp_path / "z")
    assert not m.stored


def test_comments_and_an_empty_archive(tmp_path: Path) -> None:
    out = io.BytesIO(PLAIN)
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"a comment with PK\5\6 in it" * 30
    assert len(members(out.getvalue(), tmp_path / "z")) == 2
    assert members(made(), tmp_path / "z") == ()


def patched(content: bytes, at: int, format_: str, value: object) -> bytes:
    out = bytearray(content)
    struct.pack_into(format_, out, at, value)
    return bytes(out)


DIRECTORY = PLAIN.index(b"PK\1\2")
END = PLAIN.index(b"PK\5\6")
LOCAL2 = PLAIN.index(b"PK\3\4", 4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (patched(PLAIN, DIRECTORY + 16, "<L", 7), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 20, "<L", 12), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 24, "<L", 14), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 24, "<L", 2**32 - 1), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 42, "<L", LOCAL2), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 42, "<L", 1), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 42, "<L", 2**31), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 10, "<H", 8), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 8, "<H", 8), "not what the directory says"),
        (patched(PLAIN, DIRECTORY + 34, "<H", 1), "several disks"),
        (patched(PLAIN, 14, "<L", 7), "not what the directory says"),
        (patched(PLAIN, 18, "<L", 2**31), "not what the directory says"),
        (patched(PLAIN, 26, "<H", 60000), "not what the directory says"),
        (patched(PLAIN, 28, "<H", 60000), "not what the directory says"),
        (patched(PLAIN, 30, "<B", ord("b")), "not what the directory says"),
        (patched(PLAIN, END + 4, "<H", 1), "several disks"),
        (patched(PLAIN, END + 8, "<H", 1), "several disks"),
        (patched(PLAIN, END + 8, "<L", 0x00010001), "follow its last"),
        (patched(PLAIN, END + 8, "<L", 0x00030003), "3 members in 104 bytes"),
        (patched(PLAIN, END + 8, "<L", 0xFFFFFFFF), "65535 members"),
        (patched(PLAIN, END + 12, "<L", 5), "the directory ends at"),
        (patched(PLAIN, END + 16, "<L", 5), "the directory ends at"),
        (b"#!/bin/sh\n" + PLAIN, "the directory ends at"),
        (PLAIN + b"\0", "no central directory"),
        (made(("../evil", b"x")), "no name"),
        (made(("a/../../evil", b"x")), "no name"),
        (made(("/etc/passwd", b"x")), "no name"),
        (made(("a\\b", b"x")), "no name"),
        (made(("a//b", b"x")), "no name"),
    ],
)
def test_lies_are_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        members(content, tmp_path / "z")
    assert expected in str(caught.value)
    assert caught.value.file == "shown.zip"
    assert caught.value.hint


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = made(A, A)
    with pytest.raises(FormatError, match="two members"):
        members(content, tmp_path / "z")


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """The way that a small archive becomes petabytes: all members share their data."""
    inner = made(("b", b"payload"))
    header = inner[: inner.index(b"PK\1\2")]
    # The data of "a" is the whole of "b".
    outer = made(("a", header))
    at = outer.index(b"PK\1\2")
    directory = outer[at : outer.index(b"PK\5\6")]
    where = outer.index(header)
    second = bytearray(inner[len(header) : inner.index(b"PK\5\6")])
    second[42:46] = where.to_bytes(4, "little")
    both = directory + bytes(second)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(both), at, 0)
    content = outer[:at] + both + end
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["a", "b"]
    with pytest.raises(FormatError, match="overlaps"):
        members(content, tmp_path / "z")


@pytest.mark.parametrize("limit", [{"max_directory": 100}, {"max_members": 1}])
def test_directories_that_are_too_large(tmp_path: Path, limit: dict[str, int]) -> None:
    with pytest.raises(FormatError, match="a directory of 2 members"):
        members(PLAIN, tmp_path / "z", **limit)


ARCHIVES = [PLAIN, described(A, B), made(A, B, wide=True), described(A, B, wide=True)]


def wide_end(content: bytes) -> bytes:
    """With the 64-bit records of archives that have more than 4 GiB or 65535 members."""
    at = content.index(b"PK\5\6")
    _, _, _, count, _, size, offset, _ = struct.unpack("<4s4H2LH", content[at:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return content[:at] + record + locator + end


ARCHIVES.append(wide_end(PLAIN))


def test_64_bit_directories(tmp_path: Path) -> None:
    content = wide_end(PLAIN)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
    assert members(content, tmp_path / "z") == members(PLAIN, tmp_path / "z")
    at = content.index(b"PK\6\7")
    for position, value in ((4, 1), (8, 5), (12, 1), (16, 2)):
        with pytest.raises(FormatError):
            members(patched(content, at + position, "<L", value), tmp_path / "z")
    record = content.index(b"PK\6\6")
    for position, value in ((4, 45), (16, 1), (24, 3), (32, 3), (40, 9), (48, 9)):
        with pytest.raises(FormatError):
            members(patched(content, record + position, "<Q", value), tmp_path / "z")
    with pytest.raises(FormatError, match="disagree"):
        members(patched(content, len(content) - 14, "<H", 9), tmp_path / "z")


@pytest.mark.parametrize("content", ARCHIVES)
def test_every_truncation_is_refused(content: bytes, tmp_path: Path) -> None:
    for length in range(len(content)):
        with pytest.raises(FormatError):
            members(content[:length], tmp_path / "z")


def check_any(content: bytes, path: Path) -> None:
    """Refused, or members that lie where they can."""
    try:
        found = members(content, path)
    except FormatError:
        return
    covered = 0
    for m in found:
        assert covered <= m.start <= m.start + m.size <= len(content)
        assert all(0 <= at <= len(content) - 4 for at in m.fields)
        assert not any(m.start - 4 < at < m.start + m.size for m in found for at in m.fields)
        covered = m.start + m.size


@pytest.mark.slow
@pytest.mark.parametrize("content", ARCHIVES)
def test_flipped_bits(content: bytes, tmp_path: Path) -> None:
    rng = random.Random(len(content))
    for _ in range(1500):
        raw = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(8 * len(raw))
            raw[at // 8] ^= 1 << at % 8
        check_any(bytes(raw), tmp_path / "z")


@given(st.binary(max_size=200), st.integers(0, 4))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, which: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.zip"
    check_any(data, path)
    content = ARCHIVES[which]
    at = len(content) // 2
    check_any(content[:at] + data + content[at + len(data) :], path)
