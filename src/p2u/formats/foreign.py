"""Recognise files that stand where a model's should be: pointers, web pages, compressed files."""

from __future__ import annotations

import re

from p2u.formats.reader import LFS_HEAD

#: The begin of a file, and what it is: the end of a sentence, with what could be done.
_KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(begin, re.IGNORECASE | re.DOTALL), what)
    for begin, what in (
        (re.escape(LFS_HEAD), "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (rb"(?:\.\./)*(?:\.git/annex|/annex/objects)/", "a git-annex pointer: run `git annex get`"),
        (rb"# xet version", "a Xet pointer, not the file itself: fetch the file"),
        (
            rb"\s*(?:<!doctype html|<html|<\?xml)",
            "a web page, not the model: its address is wrong, or asks for a login",
        ),
        (rb"\x1f\x8b", "compressed by gzip: unpack it first"),
        (rb"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
        (rb"\xfd7zXZ\x00", "compressed by xz: unpack it first"),
        (rb"BZh[1-9]", "compressed by bzip2: unpack it first"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
        (rb"Rar!\x1a\x07", "a RAR archive: unpack it first"),
        (rb"\x04\x22\x4d\x18", "compressed by lz4: unpack it first"),
        (rb".{257}ustar", "a tar archive: unpack it first"),
        (rb"\x89HDF", "an HDF5 file (Keras), which is not supported"),
        (rb".{4}TFL3", "a TensorFlow Lite file, which is not supported"),
        (rb"\x80[\x02-\x05]", "a pickle, but none that torch.save writes"),
        (rb"\Z", "an empty file: fetch it again"),
        (rb"salted__|-----BEGIN |age-encryption", "encrypted: decrypt it first"),
        (
            rb"\s*\{\s*\"(?:error|errors|message|detail|code|status)\"",
            "a server's answer, not the model: its address is wrong, or asks for a login",
        ),
        (
            rb"(?:[4-5][0-9][0-9][: ]|not found|forbidden|unauthorized|access|entry not found|"
            rb"invalid )[\x09-\x0d\x20-\x7e]*\Z",
            "a server's answer, not the model: its address is wrong, or asks for a login",
        ),
    )
)


def recognise(head: bytes) -> str:
    """What a file is instead of a model's; empty if nothing is known.

    Args:
        head: Its first bytes; at least 64, or all.
    """
    return next((what for begin, what in _KINDS if begin.match(head)), "")
