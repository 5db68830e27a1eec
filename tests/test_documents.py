"""Every command of README.md and docs/versions.md runs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import documents
import pytest

ROOT = Path(__file__).resolve().parents[1]


WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory."""
    return documents.tiny(tmp_path_factory.mktemp("cli") / "tiny")


def test_every_command_of_the_readme_runs(model: Path, tmp_path: Path, monkeypatch) -> None:
    """The README's shell blocks in order, with a small model of the same name and a free port."""
    shutil.copytree(model, tmp_path / "all-MiniLM-L6-v2")
    text = (ROOT / "README.md").read_text()
    commands = documents.commands(text)
    others = [line for line in documents.shell_lines(text) if not line.startswith("p2u ")]
    assert [line.split()[0] for line in others] == [
        *("make", "make", "pip", "hf", "python", "printf")
    ]
    example = shlex.split(next(line for line in others if line.startswith("python ")))[1:]
    subprocess.run([sys.executable, ROOT / example[0], *example[1:]], cwd=tmp_path, check=True)
    assert {words[0] for words in commands} >= {"pack", "serve", "pull", "publish", "watch", "gc"}
    # The adapters' blocks run in tests/adapters, where their libraries are.
    blocks = documents.python_blocks(text)
    assert blocks
    monkeypatch.chdir(tmp_path)
    with documents.running(tmp_path) as runner:
        for words in commands:
            runner.run(words)
        for block in blocks:
            exec(runner.placed(block), {})
    assert runner.reloaded == ["v2@exact"]


@pytest.mark.skipif(find_spec("gguf") is None, reason="makes a GGUF file")
def test_every_command_about_versions_runs(model: Path, tmp_path: Path) -> None:
    """Those of docs/versions.md, in order; it ends at the newest version."""
    (tmp_path / "model-v1").symlink_to(model)
    for number in (2, 3, 4):
        documents.tuned(model, tmp_path / f"model-v{number}", number)
    documents.quantised(model, tmp_path / "model-Q8_0.gguf")
    with documents.running(tmp_path) as runner:
        for words in documents.commands((ROOT / "docs" / "versions.md").read_text()):
            if words[0] == "watch":
                runner.run(["serve", "model.p2u"])
            runner.run(words)
    assert runner.reloaded[-1] == "v4@exact"
    weights = {path.parent.name: path.read_bytes() for path in tmp_path.glob(f"*/{WEIGHTS}")}
    assert weights["mine"] == weights["live"] == weights["model-v4"]
    assert weights["second"] == weights["model-v2"]
    assert weights["exact"] == weights["model-v1"]
