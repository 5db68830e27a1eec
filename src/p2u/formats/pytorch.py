"""PyTorch: the spans of zip archives (checkpoints, TorchScript) and older pickle streams.

Storages lie in both as they are. A pickle says what they hold, which is read but never carried
out; where it is not understood, everything is carried as bytes. Source: torch/serialization.py.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress

from p2u.formats.pickles import MAX_PICKLE, Pickle, PickledObject, UnknownPickleError, named_tensors
from p2u.formats.reader import Reader, reading
from p2u.formats.storages import Record, item_size, list_spans
from p2u.formats.zips import MAGIC, Archive, Member
from p2u.types import Check, Scan, TensorSpan

SUFFIXES: tuple[str, ...] = (".pt", ".pth", ".bin", ".ckpt", ".jit", ".ptl", ".pth.tar", ".pt.tar")

#: An older file begins with a pickle of this number.
_LEGACY = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?"
    + re.escape(b"\x8a\x0a" + _LEGACY.to_bytes(10, "little") + b"."),
    re.DOTALL,
)
_LEGACY_VERSION = 1001

#: A pickle, and the folder of the storages that it names.
_PARTS = (("data.pkl", "data"), ("constants.pkl", "constants"))
_COMPRESSED = "its members are compressed: load it with torch, and save it again with torch.save"
#: Bytes of an older file that are read at first: few have longer pickles.
_FIRST = 1 << 20


def matches(file: str, head: bytes) -> bool:
    """Whether a file may be PyTorch's; in a zip archive of another kind `scan` finds nothing."""
    if not file.endswith(SUFFIXES):
        return False
    return head.startswith(MAGIC) or _LEGACY_HEAD.match(head) is not None


def scan(path: str, file: str) -> Scan:
    """Find the tensors of a file.

    Raises:
        DiskError: It cannot be read.
        FormatError: It is malformed.
    """
    with reading(path, file) as reader:
        if reader.read(0, min(reader.size, len(MAGIC))) == MAGIC:
            return _scan_archive(reader)
        spans = _scan_stream(reader)
        obstacle = "" if spans else "its pickles have objects that are not known here"
        return Scan(reader.size, spans, obstacle=obstacle)


def _scan_archive(reader: Reader) -> Scan:
    archive = Archive(reader)
    members = {member.name: member for member in archive.members}
    root = next((n[:-8] for n in members if re.fullmatch(r"[^/]+/data\.pkl", n)), None)
    if root is None:
        return Scan(reader.size, (), obstacle=_other_archive(members))
    order = members.get(f"{root}byteorder")
    if order is not None and not order.stored:
        return Scan(reader.size, (), obstacle=_COMPRESSED)
    if not _is_little(reader, order):
        return Scan(reader.size, (), obstacle="its numbers are big-endian: save it again on a PC")
    obstacle = ""
    spans: list[TensorSpan] = []
    for pickle, folder in _PARTS:
        member = members.get(root + pickle)
        if member is None:
            continue
        if not member.stored or member.size > MAX_PICKLE:
            obstacle = _COMPRESSED if not member.stored else f"its {pickle} is too long to be read"
            continue
        prefix = f"{root}{folder}/"
        records = {
            name.removeprefix(prefix): Record(found.start, found.size)
            for name, found in members.items()
            if name.startswith(prefix) and found.stored
        }
        if any(name.startswith(prefix) and not found.stored for name, found in members.items()):
            obstacle = _COMPRESSED
        pickled = Pickle(reader.read(member.start, member.size))
        try:
            tensors = list(named_tensors(pickled.load()))
        except UnknownPickleError:
            obstacle = obstacle or f"its {pickle} has objects that are not known here"
            continue
        spans += list_spans(reader.file, folder, records, pickled.storages, tensors)
    return Scan(reader.size, tuple(spans), tuple(_checks(archive, spans)), obstacle)


def _other_archive(members: Mapping[str, Member]) -> str:
    """What a zip archive is that has no pickle of tensors."""
    if any(name.endswith("/archive_format") for name in members):
        return "it is an archive of torch.export: save the state_dict of its module instead"
    return "it is a zip archive, but none that torch.save writes"


def _is_little(reader: Reader, member: Member | None) -> bool:
    """Whether numbers are little-endian; files of PyTorch before 2.1 do not say."""
    if member is None:
        return True
    return reader.read(member.start, min(member.size, 8)) == b"little"


def _checks(archive: Archive, spans: list[TensorSpan]) -> list[Check]:
    """The checksums of the members that hold tensors."""
    starts = sorted(span.offset for span in spans)

    def holds_one(member: Member) -> bool:
        return bisect_left(starts, member.start) < bisect_left(starts, member.start + member.size)

    return [member.check for member in archive.members if holds_one(member)]


def _scan_stream(reader: Reader) -> tuple[TensorSpan, ...]:
    """The tensors of an older file: five pickles, then storages, each behind its length."""
    for most in (_FIRST, MAX_PICKLE):
        with suppress(UnknownPickleError):
            return _scan_pickles(reader, reader.read(0, min(reader.size, most)))
    return ()


def _scan_pickles(reader: Reader, head: bytes) -> tuple[TensorSpan, ...]:
    found = []
    at = 0
    pickles = []
    for _ in range(5):
        pickles.append(Pickle(head, at))
        found.append(pickles[-1].load())
        at = pickles[-1].at
    magic, version, system, root, keys = found
    if magic != _LEGACY or version != _LEGACY_VERSION:
        return ()
    if not isinstance(system, PickledObject) or ("little_endian", True) not in system.pairs:
        return ()
    if not isinstance(keys, PickledObject) or not all(type(key) is str for _, key in keys.pairs):
        return ()
    storages = pickles[3].storages
    records: dict[str, Record] = {}
    for _, key in keys.pairs:
        storage = storages.get(str(key))
        if storage is None or not (item := item_size(storage)):
            return ()
        elems = int.from_bytes(reader.read(at, 8), "little")
        at += 8
        if elems != storage.elems or at + elems * item > reader.size:
            raise reader.wrong(
                f"the storage {str(key)[:80]} at byte {at} has {elems} elements in "
                f"{reader.size - at} bytes, {storage.elems} elements are expected"
            )
        records[storage.key] = Record(at, elems * item)
        at += elems * item
    return list_spans(reader.file, "data", records, storages, named_tensors(root))
