"""The commands about stores and torrents in the guides run, on real servers."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import documents
import pytest
from hub import Hub

import p2u


def commands(page: str) -> list[list[str]]:
    """The words of each command in the blocks about stores, without ``p2u``."""
    text = (documents.ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```shell\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("p2u ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/stores.md", "docs/swarm.md"])
def test_every_command_runs(
    page: str, place: Callable[[str], str], hub: Hub, tmp_path: Path
) -> None:
    names = {
        "s3://bucket": place("s3"),
        "gs://other": place("az"),
        "oci://registry.example.org/team/minilm:v1": place("oci"),
        "oci://registry.example.org/team/model:v1": place("oci"),
        "hf://org/minilm": place("hf"),
    }
    model = documents.tiny(tmp_path / "checkpoint")
    documents.tuned(model, tmp_path / "all-MiniLM-L6-v2-tuned", 2)
    p2u.publish(model, tmp_path / "minilm.p2u")
    shutil.copytree(tmp_path / "minilm.p2u", tmp_path / "model.p2u")
    if page == "docs/swarm.md":
        pytest.importorskip("libtorrent")
    plain = {"model.safetensors": (model / "model.safetensors").read_bytes()}
    hub.add("org/plain", plain)
    hub.add("org/model", plain)
    found = commands(page)
    assert found
    with documents.running(tmp_path) as runner:
        for words in found:
            for name, url in names.items():
                words = [word.replace(name, url) for word in words]
            runner.run(words)
