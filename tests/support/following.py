"""Makes later versions for live replicas to follow, and reads a replica's files."""

from __future__ import annotations

import shutil
from pathlib import Path

from p2u.client.live.replica import Replica

SHARD = "model-00001-of-00002.safetensors"


def changed(model: Path, folder: Path, seed: int) -> Path:
    """Another version of a model: some weights, an integer, a byte of a file without tensors."""
    shutil.copytree(model, folder)
    path = folder / SHARD
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, len(data), 997 + seed):
        data[at] ^= 1 + seed % 7
    path.write_bytes(data)
    words = bytearray((folder / "tokenizer.json").read_bytes())
    words[5] = 65 + seed % 26
    (folder / "tokenizer.json").write_bytes(words)
    return folder


def files(replica: Replica) -> dict[str, bytes]:
    """Path to content of all files that a replica holds now."""
    return {path: bytes(data) for path, data in replica.files.items()}
