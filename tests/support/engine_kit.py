"""Engines for tests: one that shares no memory, and work that never ends well."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kit import write_npz
from packing_kit import Tensors, moved, noise, safetensors, weights

from p2u.packing.engines.coded import Coded, HeldPayload, Payload
from p2u.packing.engines.engine import BlobStream, Engine, R, T, Work
from p2u.packing.engines.places import Place
from p2u.packing.settings import PackSettings


def open_apart(settings: PackSettings) -> ApartEngine:
    """For the table of engines."""
    return ApartEngine()


class ApartEngine(Engine):
    """All that workers get and return is pickled; payloads are held apart from results."""

    shares_memory = False
    workers = 2

    def __init__(self) -> None:
        self._held: dict[int, bytes] = {}
        self.names: dict[str, str] = {}

    def run(
        self, work: Work[T, R], items: Iterable[T], budget: int
    ) -> Generator[tuple[T, R], None, None]:
        started = pickle.loads(pickle.dumps(work)).start()
        for item in items:
            result = pickle.loads(pickle.dumps(started.run(pickle.loads(pickle.dumps(item)))))
            yield item, self._apart(result) if work.streams else result

    def _apart(self, coded: Coded[bytes]) -> Any:
        held = []
        for payload in coded.payloads:
            number = len(self._held)
            self._held[number] = b"..." + payload
            held.append(HeldPayload(number, 3, len(payload)))
        return replace(coded, payloads=tuple(held))

    def open_blob(self, place: Place, key: str) -> BlobStream:
        return _ApartBlob(self, place, key)

    def bytes_of(self, payload: Payload) -> bytes:
        if isinstance(payload, bytes):
            return payload
        data = self._held.pop(payload.held)
        return data[payload.start : payload.start + payload.size]

    def settle(self) -> dict[str, str]:
        names, self.names = self.names, {}
        return names


class _ApartBlob(BlobStream):
    def __init__(self, engine: ApartEngine, place: Place, key: str) -> None:
        self._engine, self._place, self._key = engine, place, key
        self._parts: list[bytes] = []

    def add(self, payload: Payload) -> None:
        self._parts.append(self._engine.bytes_of(payload))

    def finish(self) -> None:
        place: Place = pickle.loads(pickle.dumps(self._place))
        found = place.write(self._key, self._parts)
        if found != self._key:
            self._engine.names[self._key] = found

    def close(self) -> None:
        self._parts.clear()


class DeadlyWork(Work[int, int]):
    """Kills its worker."""

    def start(self) -> DeadlyWork:
        return self

    def size(self, item: int) -> int:
        return 1

    def cost(self, item: int) -> int:
        return 1

    def run(self, item: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return item


def shards(folder: Path, moves: int = 0) -> Path:
    """A model of two shards and more: all kinds of chunks, and a file with checksums."""
    folder.mkdir(parents=True)
    files: list[Tensors] = [{}, {}]
    for layer in (1, 10, 2, 0):
        tensors = files[layer % 2]
        tensors[f"layers.{layer}.mlp.weight"] = weights("BF16", 300, 128, seed=layer)
        tensors[f"layers.{layer}.norm.weight"] = weights("F32", 128, seed=layer)
        tensors[f"layers.{layer}.conv.weight"] = weights("F32", 24, 1, 3, 3, seed=layer)
        tensors[f"layers.{layer}.ids"] = noise("I64", 8, 6)
    files[0]["embed.weight"] = weights("F16", 500, 64)
    files[1]["head.weight"] = weights("BF16", 128, 257)
    for step in range(moves):
        for tensors in files:
            for name, tensor in tensors.items():
                if not name.endswith("ids"):
                    tensors[name] = moved(tensor, 0.03, step)
    for number, tensors in enumerate(files):
        safetensors(folder / f"model-{number}.safetensors", tensors)
    write_npz(folder / "more.npz")
    (folder / "config.json").write_text(f'{{"moves": {moves}}}')
    (folder / "vocabulary.txt").write_bytes(bytes(range(256)) * 700)
    (folder / "empty.txt").write_bytes(b"")
    return folder
