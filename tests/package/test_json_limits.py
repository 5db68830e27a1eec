"""JSON of strangers: a few bytes must not cost a reader its memory, or hours."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import zstandard

from p2u.errors import FormatError
from p2u.package import graph
from p2u.package.graph import find_path, leads_to
from p2u.package.layout import parse_layout
from p2u.package.manifest import (
    MAX_LINES,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    with_costs,
)
from p2u.package.manifest import state_digest as digest
from p2u.package.manifest_parse import parse_manifest
from p2u.package.strict_json import count_nodes, parse_object

SHA = "0" * 64
RELEASE = Release("v1", (FileEntry("f", 1 << 40, (SHA,)),), Object("l", 1, SHA), ())


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": [1, 2, {"b": [], "c": {}}], "d": "x,y[z{"},
        {"a": [[[[]]], [], [[], []]]},
        {str(n): n for n in range(50)},
    ],
)
def test_no_value_is_missed(value):
    def nodes(found) -> int:
        inner = found.values() if isinstance(found, dict) else found
        return 1 + (sum(map(nodes, inner)) if isinstance(found, dict | list) else 0)

    assert nodes(value) <= count_nodes(json.dumps(value).encode())


def test_too_many_values_are_not_parsed():
    text = b'{"a":[' + b"[]," * 500 + b"0]}"
    assert parse_object(text, file="x", nodes=2000)
    with pytest.raises(FormatError, match="more than 900 values"):
        parse_object(text, file="x", nodes=900)


@pytest.mark.parametrize(
    "repeated",
    [
        b"[],",
        b'{"":0},',
        b'["a","U8",[],0,0,0,1,1],',  # is valid, but for its name
        b'"' + b"a" * 1000 + b'",',
        b" ",
    ],
)
@pytest.mark.parametrize("key", [b"tensors", b"unknown"])
def test_a_layout_does_not_swell(monkeypatch, repeated, key):
    text = b'{"' + key + b'":[' + repeated * ((16 << 20) // len(repeated)) + b"0]}"
    frame = zstandard.ZstdCompressor().compress(text)
    assert len(frame) < 20_000
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(FormatError):
        parse_layout(frame, RELEASE)


def test_many_alike_tensors_are_no_bomb():
    entries = [[f"layers.{n}.experts", "F16", [2, 4], 0, 16 * n, 16, 4, 2] for n in range(9999)]
    text = json.dumps({"tensors": entries}).encode()
    frame = zstandard.ZstdCompressor(level=19).compress(text)
    assert len(parse_layout(frame, RELEASE).tensors) == 9999


def test_files_times_states_are_limited():
    """Each state's digest is over all files: they may be few bytes and cost hours."""
    files = tuple(FileEntry(f"{n}", 0, (SHA,)) for n in range(MAX_LINES // 900))
    state = digest((f.path, f.size, SHA) for f in files)
    states = tuple(State("v1", f"s{n}", state, 1, None, 8.0) for n in range(1000))
    release = replace(RELEASE, files=files, states=states)
    updates = tuple(Update(None, s.id, Object(s.label, 1, SHA), (), 0, 0) for s in states)
    text = with_costs(Manifest("m", (release,), updates)).to_bytes()
    with pytest.raises(FormatError, match="files times its states"):
        parse_manifest(text)


class Edge:
    """Counts how often it is looked at."""

    looks = 0

    def __init__(self, source: str | None, target: str) -> None:
        self._source, self.target, self.bytes = source, target, 1

    @property
    def source(self) -> str | None:
        Edge.looks += 1
        return self._source


def test_long_chains_cost_what_they_have():
    count = 5000
    edges = [Edge(None, "0"), *(Edge(str(n), str(n + 1)) for n in range(count))]
    edges.reverse()
    Edge.looks = 0
    assert len(find_path(edges, None, str(count))) == count + 1
    assert leads_to(edges, "0", str(count))
    assert Edge.looks <= 3 * len(edges)
    assert graph.leads_to([], "a", "a")
