"""NumPy's .npz, a zip archive: stored members are spans, deflated ones are carried."""

from __future__ import annotations

from p2u.formats import npy
from p2u.formats.reader import reading
from p2u.formats.zips import MAGIC, Archive
from p2u.types import Scan, TensorSpan

SUFFIXES: tuple[str, ...] = (".npz",)


def matches(file: str, head: bytes) -> bool:
    """Whether a file is an archive of arrays."""
    return file.endswith(SUFFIXES) and head.startswith(MAGIC)


def scan(path: str, file: str) -> Scan:
    """Find the arrays of an archive that are not compressed.

    Raises:
        DiskError: It cannot be read.
        FormatError: It is malformed.
    """
    spans = []
    checks = []
    deflated = others = 0
    with reading(path, file) as reader:
        for member in Archive(reader).members:
            if not member.name.endswith(npy.SUFFIXES):
                continue
            if not member.stored:
                deflated += 1
                continue
            head = reader.read(member.start, min(member.size, npy.HEAD))
            found = npy.parse(head, member.size, f"{file}: {member.name}")
            if found is None:
                others += 1
            if found is None or not found.length:
                continue
            name = member.name.removesuffix(".npy")
            start = member.start + found.offset
            spans.append(TensorSpan(name, found.dtype, found.shape, file, start, found.length))
            checks.append(member.check)
        obstacle = ""
        if deflated:
            obstacle = f"{deflated} of its arrays are compressed: save them with numpy.savez"
        elif others:
            obstacle = f"{others} of its arrays are no plain numbers"
        return Scan(reader.size, tuple(spans), tuple(checks), obstacle)
