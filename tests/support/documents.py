"""Finds commands and Python blocks in the documents, and runs the commands on small models."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from waiting import until

import p2u
from p2u.serve import Server, make_server

ROOT = Path(__file__).resolve().parents[2]
#: Where servers are in the documents.
URL = "http://127.0.0.1:8000"
HOOK = '#!/bin/sh\necho "$P2U_STATE" >> "{folder}/reloaded"\n'


def shell_lines(text: str) -> list[str]:
    """The lines of all shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.splitlines() if line]


def commands(text: str) -> list[list[str]]:
    """The words of each ``p2u`` command, in order, without ``p2u``."""
    lines = [line for line in shell_lines(text) if line.startswith("p2u ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def python_blocks(text: str, library: str = "") -> list[str]:
    """The blocks of Python that use this library of ours; by default those that use none."""
    found = []
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        used = re.search(r"\bp2u\.(torch|onnx|sync)\b", block)
        if (used[1] if used else "") == library:
            found.append(block)
    return found


def named_block(text: str, name: str) -> str:
    """The block of Python that begins with the comment ``# name``."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (found,) = (block for block in blocks if block.startswith(f"# {name}\n"))
    return found


def tiny(folder: Path) -> Path:
    """A small model directory."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    tensors = {
        "embed.weight": rng.normal(0, 0.05, (500, 64)).astype(np.float32),
        "layer.0.weight": rng.normal(0, 0.1, (256, 64)).astype(np.float16),
        "layer.0.bias": rng.normal(0, 0.1, 256).astype(np.float32),
        "ids": np.arange(100),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return folder


def tuned(model: Path, folder: Path, seed: int) -> None:
    """A version of a model whose floats differ a little."""
    shutil.copytree(model, folder)
    rng = np.random.default_rng(seed)
    tensors = load_file(folder / "model.safetensors")
    for name, values in tensors.items():
        if values.dtype.kind == "f":
            tensors[name] = values * (1 + 1e-3 * rng.normal(size=values.shape)).astype(values.dtype)
    save_file(tensors, folder / "model.safetensors")


def quantised(model: Path, out: Path) -> None:
    """A GGUF file with a model's matrices in Q8_0, and the rest as floats."""
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(out, "llama")
    for name, values in load_file(model / "model.safetensors").items():
        if values.dtype.kind == "f":
            if values.ndim > 1:
                kind = gguf.GGMLQuantizationType.Q8_0
                blocks = gguf.quants.quantize(values.astype(np.float32), kind)
                writer.add_tensor(name, blocks, raw_dtype=kind)
            else:
                writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Runner:
    """Runs commands in a folder; ``serve`` makes a server, ``watch`` ends after its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: Server | None = None
        (folder / "reload.sh").write_text(HOOK.format(folder=folder))
        (folder / "reload.sh").chmod(0o755)

    @property
    def reloaded(self) -> list[str]:
        """States for which the command of ``watch`` was run."""
        path = self.folder / "reloaded"
        return path.read_text().split() if path.exists() else []

    def placed(self, text: str) -> str:
        """A text with the server's own URL."""
        return text.replace(URL, self.server.url) if self.server else text

    def run(self, words: list[str]) -> None:
        """Run one command; it has to succeed."""
        if words[0] == "serve":
            self.server = make_server(self.folder / words[1], quiet=True).start()
            return
        root = str(Path(p2u.__file__).parent.parent)
        process = subprocess.Popen(
            [sys.executable, "-m", "p2u", *map(self.placed, words)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": root},
            stderr=subprocess.PIPE,
            text=True,
        )
        if words[0] == "watch":
            until(lambda: "@exact" in "".join(self.reloaded[-1:]) or process.poll() is not None)
            assert process.poll() is None, words
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0 or words[0] == "watch", (words, said)


@contextmanager
def running(folder: Path) -> Iterator[Runner]:
    """A runner whose server is ended."""
    runner = Runner(folder)
    try:
        yield runner
    finally:
        if runner.server:
            runner.server.shutdown()
