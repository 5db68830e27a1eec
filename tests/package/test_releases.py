"""Manifests of several releases: costs, names of states, and lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import any_place, put

from p2u.errors import FormatError, P2UError, UsageError
from p2u.package.lookup import find_state, find_wanted
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

SHA = [hashlib.sha256(bytes([n])).hexdigest() for n in range(20)]


def release(version: str, first: int, labels: tuple[str, ...], layout: int, **more: Any) -> Release:
    files = (
        FileEntry("config.json", 10, (SHA[0],)),
        FileEntry("model.bin", 1000, tuple(SHA[first : first + len(labels)])),
    )
    states = tuple(
        State(
            version,
            label,
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
    tree = json.loads(data)
    assert tree["version"] == 1
    assert [(r["version"], r.get("foreign")) for r in tree["releases"]] == [
        *(("q4", True), ("v1", None), ("v2", None), ("v3", None), ("v3-adopted", None))
    ]
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


def test_one_release_has_the_same_form() -> None:
    one = with_costs(
        replace(MANIFEST, releases=MANIFEST.releases[1:2], updates=MANIFEST.updates[:2])
    )
    tree, several = json.loads(one.to_bytes()), json.loads(MANIFEST.to_bytes())
    assert tree == several | {
        "releases": several["releases"][1:2],
        "updates": several["updates"][:2],
    }
    assert set(tree["releases"][0]["states"][0]) == {"label", "digest", "bytes", "snr_db", "bits"}
    assert parse_manifest(one.to_bytes()) == one
    assert [state.id for state in one.states] == ["v1@base", "v1@exact"]


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


def test_a_label_never_means_an_older_version() -> None:
    manifest = replace(MANIFEST, releases=MANIFEST.releases[:3])
    middle = manifest.releases[1]
    eight = replace(middle.states[0], label="8bit")
    middle = replace(middle, states=(middle.states[0], eight, middle.states[1]))

    def latest(*labels: str) -> Manifest:
        states = tuple(s for s in manifest.releases[2].states if s.label in labels)
        return replace(
            manifest,
            releases=(manifest.releases[0], middle, replace(manifest.releases[2], states=states)),
        )

    for wanted, found in (
        ("exact", "v2@exact"),
        ("8bit", "v2@exact"),
        ("base", "v2@exact"),
        ("v1@base", "v1@base"),
        ("v1", "v1@exact"),
    ):
        assert find_wanted(latest("exact"), wanted).id == found
    assert find_wanted(latest("base", "exact"), "base").id == "v2@base"
    assert find_wanted(latest("base"), "8bit").id == "v2@base"  # it has no better one
    for wanted in ("4bit", "q4", "v9"):
        with pytest.raises(UsageError, match="no state"):
            find_wanted(latest("exact"), wanted)


LIES: dict[str, Callable[[Any], object]] = {
    "version twice": put("releases", 2, "version", "v1"),
    "version with a slash": put("releases", 2, "version", "v/1"),
    "only foreign": lambda t: t.update(releases=t["releases"][:1], updates=[]),
    "no releases": lambda t: t.update(releases=[], updates=[]),
    "no releases at all": lambda t: t.pop("releases"),
    "releases an object": put("releases", {}),
    "release without a version": lambda t: t["releases"][2].pop("version"),
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
    node, key = any_place(data, tree)
    node[key] = data.draw(VALUES)
    try:
        parsed = parse_manifest(json.dumps(tree).encode())
    except P2UError:
        return
    assert parse_manifest(parsed.to_bytes()) == parsed
    assert with_costs(parsed) == parsed
