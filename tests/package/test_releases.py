"""Packages of several releases: the manifest of version 2, the index with a map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import put

from p2u.errors import FormatError, P2UError, UsageError
from p2u.package.geometry import Chunk, Piece, Seg, all_spans
from p2u.package.index import encode_index, parse_index
from p2u.package.layout import Layout, ReleaseLayout, Tensor
from p2u.package.lookup import find_state
from p2u.package.manifest import (
    Blob,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    state_digest,
    with_costs,
)
from p2u.package.manifest_parse import parse_manifest
from p2u.package.mapping import Map, aligned, copies, identity, source_bytes

SHA = [hashlib.sha256(bytes([n])).hexdigest() for n in range(20)]


def release(version: str, first: int, labels: tuple[str, ...], layout: int, **more: Any) -> Release:
    files = (
        FileEntry("config.json", 10, (SHA[0],)),
        FileEntry("model.bin", 1000, tuple(SHA[first : first + len(labels)])),
    )
    states = tuple(
        State(
            f"{version}@{label}",
            label,
            version,
            state_digest((f.path, f.size, f.digest(n)) for f in files),
            None,
            None,
            8.0,
        )
        for n, label in enumerate(labels)
    )
    held = Object(f"layout-{layout}.zst", 50, SHA[layout])
    return Release(version, files, held, states, **more)


def update(source: str | None, target: str, size: int) -> Update:
    name = f"{source}-{target}"
    return Update(
        source, target, Object(f"{name}.index", 20, SHA[15]), (Blob(f"{name}.bin", size),), size, 1
    )


MANIFEST = with_costs(
    Manifest(
        "a model",
        (
            release("q4", 1, ("exact",), 10, foreign=True),
            release("v1", 2, ("base", "exact"), 11),
            release("v2", 4, ("base", "exact"), 11),
            release("v3", 6, ("exact",), 12),
            release("v3-adopted", 7, ("exact",), 12),
        ),
        (
            update(None, "v1@base", 300),
            update("v1@base", "v1@exact", 700),
            update("q4@exact", "v1@exact", 600),
            update("v1@exact", "v2@exact", 100),
            update(None, "v2@base", 300),
            update("v2@base", "v2@exact", 800),
            update("v2@exact", "v3@exact", 40),
            update("q4@exact", "v3-adopted@exact", 500),
        ),
        "p2u-models 2",
    )
)


def test_round_trip() -> None:
    data = MANIFEST.to_bytes()
    assert json.loads(data)["version"] == 2
    assert parse_manifest(data) == MANIFEST
    assert parse_manifest(data).to_bytes() == data


def test_costs() -> None:
    costs = {state.id: state.bytes for state in MANIFEST.states}
    assert costs == {
        "q4@exact": None,
        "v1@base": 50 + 320,
        "v1@exact": 50 + 320 + 720,
        "v2@base": 50 + 320,
        # Coming from v1, which has the same layout, would be 1210.
        "v2@exact": 50 + 320 + 820,
        "v3@exact": 50 + 320 + 820 + 50 + 60,
        "v3-adopted@exact": None,
    }


def test_a_package_of_one_release_is_of_version_1() -> None:
    one = with_costs(
        replace(MANIFEST, releases=MANIFEST.releases[1:2], updates=MANIFEST.updates[:2])
    )
    tree = json.loads(one.to_bytes())
    assert tree["version"] == 1
    assert [state["id"] for state in tree["states"]] == ["v1@base", "v1@exact"]
    assert "releases" not in tree
    assert parse_manifest(one.to_bytes()) == one
    tree["states"][1] |= {"version": "v2", "id": "v2@exact"}
    with pytest.raises(FormatError, match=r"states\[1\].version"):
        parse_manifest(json.dumps(tree).encode())


def test_names_of_states() -> None:
    manifest = replace(MANIFEST, releases=MANIFEST.releases[:3])
    for wanted, found in (
        ("exact", "v2@exact"),
        ("base", "v2@base"),
        ("v1", "v1@exact"),
        ("v1@base", "v1@base"),
        ("v2", "v2@exact"),
    ):
        assert find_state(manifest, wanted).id == found
    assert [manifest.title(state) for state in manifest.states] == [
        *("q4@exact", "v1@base", "v1@exact", "base", "exact")
    ]
    for wanted in ("q4", "q4@exact", "v9", "8bit"):
        with pytest.raises(UsageError, match="v1@base, v1@exact, base, exact"):
            find_state(manifest, wanted)


LIES: dict[str, Callable[[Any], object]] = {
    "version twice": put("releases", 2, "version", "v1"),
    "version with a slash": put("releases", 2, "version", "v/1"),
    "one release": lambda t: t.update(releases=t["releases"][1:2], updates=t["updates"][:2]),
    "no releases": put("releases", []),
    "no releases at all": lambda t: t.pop("releases"),
    "release without states": put("releases", 3, "states", []),
    "release without layout": lambda t: t["releases"][0].pop("layout"),
    "all foreign": lambda t: [r.update(foreign=True) for r in t["releases"]],
    "foreign a number": put("releases", 0, "foreign", 1),
    "foreign with bytes": put("releases", 0, "states", 0, "bytes", 5),
    "foreign with a way from nothing": put("updates", 0, "target", "q4@exact"),
    "foreign in the middle": put("releases", 1, "foreign", True),
    "not foreign and not reached": put("releases", 0, "foreign", False),
    "state twice": lambda t: t["releases"][1]["states"].append(t["releases"][1]["states"][1]),
    "layout of another size": put("releases", 2, "layout", "size", 51),
    "layout of another digest": put("releases", 2, "layout", "sha256", SHA[3]),
    "key of two updates": put("updates", 3, "index", "key", "None-v1@base.index"),
    "bytes of a later state": put("releases", 2, "states", 1, "bytes", 1),
    "bytes null": put("releases", 2, "states", 1, "bytes", None),
    "bytes missing": lambda t: t["releases"][2]["states"][1].pop("bytes"),
    "bytes where there is no way": put("releases", 4, "states", 0, "bytes", 1120),
    "back to an older release": lambda t: t["updates"][3].update(
        source="v2@exact", target="v1@exact"
    ),
    "circle": put("updates", 3, "target", "v1@exact"),
    "digests of another release": put("releases", 1, "files", 1, "sha256", [SHA[4], SHA[5]]),
    "a digest for each state of all releases": put(
        "releases", 3, "files", 1, "sha256", [SHA[6]] * 7
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str) -> None:
    tree = json.loads(MANIFEST.to_bytes())
    LIES[lie](tree)
    with pytest.raises(FormatError) as caught:
        parse_manifest(json.dumps(tree).encode())
    assert caught.value.file
    assert caught.value.hint


def test_every_truncation_is_refused() -> None:
    data = MANIFEST.to_bytes().rstrip()
    for length in range(0, len(data), 7):
        with pytest.raises(P2UError):
            parse_manifest(data[:length])


VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**53, "", "v1", "v2@exact", "q4@exact", SHA[0], [], {}, [{}]]
)


@given(st.data())
def test_any_change_is_refused_or_harmless(data: st.DataObject) -> None:
    tree = json.loads(MANIFEST.to_bytes())
    node = tree
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(VALUES)
    try:
        parsed = parse_manifest(json.dumps(tree).encode())
    except P2UError:
        return
    assert parse_manifest(parsed.to_bytes()) == parsed
    assert with_costs(parsed) == parsed


# --- the map

# Of the source: a header, two tensors with a gap between them, a file that is carried.
SOURCE = ReleaseLayout(
    Release(
        "v1",
        (FileEntry("old", 700, (SHA[0],)), FileEntry("notes", 40, (SHA[1],))),
        Object("l1", 1, SHA[2]),
        (),
    ),
    Layout(
        (
            Tensor("a", "BF16", (10, 20), 0, 100, 400, 20, 2),
            Tensor("b", "F32", (5, 5), 0, 520, 100, 25, 4),
            Tensor("q", "Q8_0", (64,), 0, 620, 68, 68, 1),
        )
    ),
)
# Of the target: the tensors renamed, in another file and order, one longer, one new.
TARGET = ReleaseLayout(
    Release(
        "v2",
        (FileEntry("notes", 50, (SHA[3],)), FileEntry("new", 900, (SHA[4],))),
        Object("l2", 1, SHA[5]),
        (),
    ),
    Layout(
        (
            Tensor("b2", "F32", (25,), 1, 50, 100, 5, 4),
            Tensor("a2", "BF16", (15, 20), 1, 150, 600, 20, 2),
            Tensor("q2", "F16", (64,), 1, 750, 128, 64, 2),
        )
    ),
)
MAP = Map((1, 0, 2), (1, 0))


def rows(tensor: int, first: int, count: int) -> Chunk:
    return Chunk(0, 0, 0, 10, b"x" * 32, (Seg(tensor, first, count),), ())


def carry(*pieces: tuple[int, int, int]) -> Chunk:
    return Chunk(0, 0, 0, 10, b"x" * 32, (), tuple(Piece(*p) for p in pieces))


#: Rows 2 of b2, what a2 has more than a, what its Q8_0 source cannot give q2, the longer notes.
CHUNKS = [rows(0, 2, 1), rows(1, 10, 5), rows(2, 0, 1), carry((0, 40, 10), (1, 878, 22))]


def version_update(chunks: int) -> Update:
    size = 10 * chunks
    return Update("v1@x", "v2@x", Object("u", 1, SHA[6]), (Blob("b", size),), size, chunks)


def parse(chunks: list[Chunk], found: Map = MAP, source: ReleaseLayout = SOURCE) -> Any:
    of = version_update(len(chunks))
    return parse_index(encode_index(chunks, found), of, TARGET, source)


def test_index_with_a_map() -> None:
    data = encode_index(CHUNKS, MAP)
    assert data[:10] == b"P2UI\x02\x02\x01\x03\x02\x01"
    found = parse(CHUNKS)
    assert found.map == MAP
    assert encode_index(found.chunks, found.map) == data
    assert encode_index(CHUNKS, Map((None, 0, None), (None, 1)))[:10] == (
        b"P2UI\x02\x00\x01\x00\x00\x02"
    )


def test_copies() -> None:
    found = parse(CHUNKS)
    made = copies(all_spans(found.chunks, TARGET.layout), MAP, TARGET, SOURCE, "u")
    assert [(c.file, c.offset, c.source_file, c.source_offset, c.size) for c in made] == [
        (0, 0, 1, 0, 40),
        (1, 0, 0, 0, 50),
        (1, 50, 0, 520, 40),
        (1, 110, 0, 560 + 20, 40),
        (1, 150, 0, 100, 400),
    ]


@pytest.mark.parametrize(
    ("chunks", "found", "match"),
    [
        (CHUNKS[1:], Map((None, 0, 2), (1, 0)), "'b2', and there is nothing"),
        (CHUNKS[1:], Map((0, 0, 2), (1, 0)), "'b2', and there is nothing"),  # another dtype
        ([*CHUNKS[:1], *CHUNKS[2:]], MAP, "150 to 750 of tensor 'a2'"),  # a is shorter
        ([*CHUNKS[:2], *CHUNKS[3:]], MAP, "750 to 878 of tensor 'q2'"),
        (CHUNKS[:3], MAP, "notes: no chunk brings bytes 0 to 50"),  # the old one has 40
        (CHUNKS, Map((1, 0, 2), (1, None)), "new: no chunk brings bytes 0 to 50"),
        (CHUNKS, Map((1, 0, 2), (1, 1)), "new: no chunk brings bytes 0 to 50"),
        (CHUNKS, Map((3, 0, 2), (1, 0)), "maps tensor 0 to 3 of 3"),
        (CHUNKS, Map((1, 0, 2), (2, 0)), "maps file 0 to 2 of 2"),
        ([*CHUNKS, rows(0, 2, 1)], MAP, "row 2 of tensor number 0 appears twice"),
        ([*CHUNKS, carry((1, 40, 20))], MAP, "belong to a tensor"),
        ([*CHUNKS, carry((0, 45, 1))], MAP, "byte 45 appears twice"),
        ([*CHUNKS, carry((0, 45, 10))], MAP, "do not exist"),
    ],
)
def test_maps_that_do_not_do(chunks: list[Chunk], found: Map, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse(chunks, found)
    assert caught.value.file == "u"
    assert caught.value.hint


def test_versions_of_an_index() -> None:
    of = version_update(len(CHUNKS))
    with pytest.raises(FormatError, match="version 1, 2 expected"):
        parse_index(encode_index(CHUNKS), of, TARGET, SOURCE)
    with pytest.raises(FormatError, match="version 2, 1 expected"):
        parse_index(encode_index(CHUNKS, MAP), of, TARGET)


def test_every_truncation_of_a_map() -> None:
    data = encode_index(CHUNKS, MAP)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_index(data[:length], version_update(len(CHUNKS)), TARGET, SOURCE)


@given(st.data())
def test_any_change_of_an_index(data: st.DataObject) -> None:
    raw = bytearray(encode_index(CHUNKS, MAP))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    of = version_update(len(CHUNKS))
    try:
        found = parse_index(bytes(raw), of, TARGET, SOURCE)
    except P2UError:
        return
    assert encode_index(found.chunks, found.map) == raw
    made = copies(all_spans(found.chunks, TARGET.layout), found.map, TARGET, SOURCE, "u")
    for c in made:
        assert 0 <= c.source_offset <= SOURCE.files[c.source_file].size - c.size
    total = sum(span.size for span in all_spans(found.chunks, TARGET.layout)) + sum(
        c.size for c in made
    )
    assert total == sum(file.size for file in TARGET.files)


def test_what_corresponds() -> None:
    a, b, q = SOURCE.tensors
    b2, a2, q2 = TARGET.tensors
    assert source_bytes(b2, b, 5, 20) == (20, 80)
    assert source_bytes(b2, a, 5, 20) == (10, 40)
    assert source_bytes(a2, a, 180, 20) == (360, 40)
    assert source_bytes(a2, a, 180, 40) is None
    assert source_bytes(q2, q, 0, 64) == (0, 68)
    assert source_bytes(q2, q, 32, 32) == (34, 34)
    assert source_bytes(q2, q, 16, 32) is None
    assert source_bytes(replace(q2, dtype="I16"), q, 2, 5) == (2, 5)


def test_aligned() -> None:
    same = ReleaseLayout(replace(SOURCE.release, version="v2"), SOURCE.layout)
    assert aligned(same, SOURCE, identity(same))
    assert not aligned(same, SOURCE, Map((0, 1, None), (0, 1)))
    assert not aligned(TARGET, SOURCE, identity(TARGET))
    longer = replace(SOURCE.release, files=(SOURCE.files[0], replace(SOURCE.files[1], size=41)))
    assert not aligned(ReleaseLayout(longer, SOURCE.layout), SOURCE, identity(same))
