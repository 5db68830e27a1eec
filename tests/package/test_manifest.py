"""p2u.json: what is written is read back, whatever lies is refused."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import any_place, put

from p2u.errors import FormatError, P2UError, UnsupportedError
from p2u.package.manifest import (
    Blob,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    state_digest,
)
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import check_path, check_paths

SHA = [hashlib.sha256(bytes([n])).hexdigest() for n in range(10)]
FILES = (
    FileEntry("config.json", 10, (SHA[0],)),
    FileEntry("sub/größe.safetensors", 1000, (SHA[1], SHA[2])),
)


def digest(state: int) -> str:
    return state_digest((f.path, f.size, f.digest(state)) for f in FILES)


MANIFEST = Manifest(
    name="a model",
    releases=(
        Release(
            version="v1",
            files=FILES,
            layout=Object("layout.json.zst", 50, SHA[3]),
            states=(
                State("v1", "base", digest(0), 50 + 20 + 300, 17.25, 3.5),
                State("v1", "exact", digest(1), 50 + 20 + 300 + 21 + 400, None, 10.5),
            ),
        ),
    ),
    updates=(
        Update(
            None,
            "v1@base",
            Object("base.index", 20, SHA[4]),
            (Blob("base-000.bin", 200), Blob("base-001.bin", 100)),
            300,
            3,
        ),
        Update(
            "v1@base",
            "v1@exact",
            Object("exact.index", 21, SHA[5]),
            (Blob("exact-000.bin", 400),),
            400,
            2,
        ),
    ),
    generator="p2u-models 1",
)


def test_round_trip() -> None:
    data = MANIFEST.to_bytes()
    assert parse_manifest(data) == MANIFEST
    assert parse_manifest(data).to_bytes() == data


def test_digest_of_a_state_is_that_of_sha256sum_like_lines() -> None:
    text = f"{SHA[0]} 1 a\n{SHA[1]} 2 b/ü\n"
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert state_digest([("b/ü", 2, SHA[1]), ("a", 1, SHA[0])]) == expected


def test_unknown_keys_are_ignored() -> None:
    tree = json.loads(MANIFEST.to_bytes())
    tree["new"] = {"a": [1]}
    tree["releases"][0]["new"] = True
    tree["releases"][0]["states"][0] |= {"new": 1, "id": "v9@8bit"}
    tree["updates"][0]["blobs"][0]["new"] = None
    assert parse_manifest(json.dumps(tree).encode()) == MANIFEST


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0, [1]])
def test_other_versions_are_unsupported(version: Any) -> None:
    tree = json.loads(MANIFEST.to_bytes())
    tree["version"] = version
    with pytest.raises(UnsupportedError, match="format version"):
        parse_manifest(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * 10_000),
        *(b'{"format":"p2u","format":"p2u"}', b'{"format":"p2u","version":NaN}'),
        b'{"format":"zip","version":1}',
    ],
)
def test_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(data)


def test_every_truncation_is_refused() -> None:
    data = MANIFEST.to_bytes().rstrip()
    for length in range(len(data)):
        with pytest.raises(P2UError):
            parse_manifest(data[:length])


def file(*way: Any) -> Callable[[Any], None]:
    """A change of the first file."""
    return put("releases", 0, "files", 0, *way)


def state(*way: Any) -> Callable[[Any], None]:
    """A change of one of the states."""
    return put("releases", 0, "states", *way)


LIES: dict[str, Callable[[Any], object]] = {
    "size below zero": file("size", -1),
    "size too large": file("size", 2**53),
    "size a float": file("size", 10.0),
    "size a bool": file("size", True),
    "digest in upper case": file("sha256", [SHA[0].upper()]),
    "digest too short": file("sha256", [SHA[0][1:]]),
    "no digest": file("sha256", []),
    "digest with a line feed": file("sha256", [SHA[0] + "\n"]),
    "too many digests": file("sha256", [SHA[0]] * 3),
    "other digest": file("sha256", [SHA[1]]),
    "file leaves": file("path", "../config.json"),
    "file absolute": file("path", "/etc/passwd"),
    "same file twice": file("path", FILES[1].path),
    "same file but for case": file("path", "SUB/GRÖSSE.safetensors"),
    "same file but for Unicode form": file("path", "sub/gro\u0308ße.safetensors"),
    "file and folder": file("path", "sub"),
    "path a lone surrogate": file("path", "\ud800"),
    "key leaves": put("releases", 0, "layout", "key", "a/../../b"),
    "key is the manifest": put("releases", 0, "layout", "key", "P2U.json"),
    "same key twice": put("updates", 1, "index", "key", "base.index"),
    "layout too large": put("releases", 0, "layout", "size", 2**40),
    "index too large": put("updates", 0, "index", "size", 2**31),
    "blobs do not add up": put("updates", 0, "blobs", 0, "size", 199),
    "empty blob": put("updates", 0, "blobs", 0, "size", 0),
    "bytes of an update": put("updates", 0, "bytes", 301),
    "bytes of a state": state(0, "bytes", 371),
    "label with a slash": state(0, "label", "a/b"),
    "digest of a state": state(1, "digest", SHA[0]),
    "state that nothing leads to": lambda t: t["updates"].pop(),
    "update from nowhere": put("updates", 1, "source", "v1@8bit"),
    "update to nowhere": put("updates", 1, "target", "v1@8bit"),
    "update back": lambda t: t["updates"][1].update(source="v1@exact", target="v1@base"),
    "update in a circle": put("updates", 1, "source", "v1@exact"),
    "no way from nothing": put("updates", 0, "source", "v1@exact"),
    "snr missing": lambda t: t["releases"][0]["states"][0].pop("snr_db"),
    "snr text": state(0, "snr_db", "17"),
    "bits huge": state(0, "bits", 10**400),
    "name a number": put("name", 1),
    "name too long": put("name", "x" * 5000),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str) -> None:
    tree = json.loads(MANIFEST.to_bytes())
    LIES[lie](tree)
    with pytest.raises(FormatError, match=r".") as caught:
        parse_manifest(json.dumps(tree).encode())
    assert caught.value.file
    assert caught.value.hint


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "./a", "a\\b", "a\0", "a\n", "\x7f"),
        *("C:a", "c:/a", "a/.p2u/b", ".p2u", ".P2U-journal", "x" * 256, "/".join(["xy"] * 2000)),
        "\udfff",
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(FormatError):
        check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b.c", "...", "a..b", ".a", "ü", "ab:c", "p2u", "a b"])
def test_good_paths(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize("paths", [["a", "A"], ["a/b", "A/B"], ["a/b/c", "a"], ["a", "A/b"]])
def test_paths_that_do_not_go_together(paths: list[str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(FormatError):
            check_paths(order)


VALUES = st.sampled_from(
    [None, True, 0, 1, -1, 2**53, 2**64, 0.5, "", "a", "v1@base", SHA[0], [], {}, [{}], [[]]]
)


@given(st.data())
def test_any_change_is_refused_or_harmless(data: st.DataObject) -> None:
    tree = json.loads(MANIFEST.to_bytes())
    node, key = any_place(data, tree)
    if data.draw(st.booleans()):
        del node[key]
    else:
        node[key] = copy.deepcopy(data.draw(VALUES))
    try:
        parsed = parse_manifest(json.dumps(tree).encode())
    except P2UError:
        return
    # What passes is what a writer could have meant.
    assert parse_manifest(parsed.to_bytes()) == parsed
    assert [f.size for f in parsed.latest.files] == [f.size for f in FILES]
    for update in parsed.updates:
        assert sum(blob.size for blob in update.blobs) == update.bytes


@given(st.data())
def test_any_byte_is_refused_or_read(data: st.DataObject) -> None:
    raw = bytearray(MANIFEST.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(P2UError):
        parsed = parse_manifest(bytes(raw))
        assert parse_manifest(parsed.to_bytes()) == parsed
