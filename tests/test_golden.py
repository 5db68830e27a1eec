"""The golden files decode to the same bytes forever; see tests/golden/make.py."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import p2u
from p2u.codec import core

GOLDEN = Path(__file__).parent / "golden" / "v1"
DIGESTS: dict[str, dict[str, dict[str, str]]] = json.loads((GOLDEN / "sha256.json").read_text())
LEVELS: list[dict[str, Any]] = json.loads((GOLDEN / "levels.json").read_text())
CHANGES: list[dict[str, Any]] = json.loads((GOLDEN / "changes.json").read_text())


def check(folder: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_every_state_of_the_golden_package(tmp_path: Path) -> None:
    states = DIGESTS["package"]
    assert list(states) == ["v1@base", "v1@8bit", "v1@exact"]
    for state, digests in states.items():
        p2u.pull(GOLDEN / "package", tmp_path / "out", until=state)
        check(tmp_path / "out", digests)
    check(GOLDEN / "model", states["v1@exact"])


@pytest.mark.parametrize("source", [None, "v1@exact", "v2@exact", "v3@exact"])
def test_every_state_of_the_golden_versions(source: str | None, tmp_path: Path) -> None:
    """From nothing, and by the updates from each version."""
    states = DIGESTS["versions"]
    ids = list(states)
    for state in ids[ids.index(source) + 1 :] if source else ids:
        out = tmp_path / state
        for step in (source, state) if source else (state,):
            p2u.pull(GOLDEN / "versions", out, until=step)
        check(out, states[state])


def test_the_golden_model_in_memory() -> None:
    tensors = p2u.load(GOLDEN / "package", state="exact")
    assert tensors["layer.0.weight"].shape == (160, 96)
    assert tensors["embed.weight"].dtype.name == "bfloat16"


@pytest.mark.parametrize("isa", [i for i in range(1, 5) if core.isa(i)])
@pytest.mark.parametrize("chunk", LEVELS, ids=lambda c: f"{c['dtype']}-{len(c['payloads'])}")
def test_chunks_with_codes_that_are_not_the_nearest(chunk: dict[str, Any], isa: int) -> None:
    state = bytearray(chunk["elems"] * chunk["item"])
    segment = core.Segment(state, chunk["elems"], chunk["cols"])
    for text, digest in zip(chunk["payloads"], chunk["sha256"], strict=True):
        core.apply(base64.b64decode(text), chunk["dtype"], chunk["item"], [segment], isa)
        assert hashlib.sha256(state).hexdigest() == digest


@pytest.mark.parametrize("isa", [i for i in range(1, 5) if core.isa(i)])
@pytest.mark.parametrize("chunk", CHANGES, ids=lambda c: f"{c['kind']}-{c['dtype']}")
def test_chunks_between_versions(chunk: dict[str, Any], isa: int) -> None:
    state = bytearray(chunk["elems"] * chunk["item"])
    segment = core.Segment(state, chunk["elems"], chunk["cols"])
    payload, source = (base64.b64decode(chunk[key]) for key in ("payload", "source"))
    core.apply(payload, chunk["dtype"], chunk["item"], [segment], isa, sources=[source])
    assert payload[0] == chunk["kind"]
    assert hashlib.sha256(state).hexdigest() == chunk["sha256"]
