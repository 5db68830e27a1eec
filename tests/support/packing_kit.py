"""Makes models to pack, and decodes packages in the slow and plain way."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import kit
import ml_dtypes
import numpy as np
from manifests import manifest_of

from p2u import pull
from p2u.codec import core
from p2u.package.geometry import Chunk
from p2u.package.index import decode_pieces, parse_index
from p2u.package.layout import Layout, ReleaseLayout, parse_layout
from p2u.package.manifest import Manifest

FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
#: Name to dtype, shape and bytes.
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def safetensors(path: Path, tensors: Tensors) -> None:
    """Write a file; tensors lie in the order of the dict."""
    kit.write_safetensors(path, ((name, *tensor) for name, tensor in tensors.items()))


def weights(dtype: str, *shape: int, seed: int = 0) -> tuple[str, tuple[int, ...], bytes]:
    """Normal weights, each row with a scale of its own."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape) * 0.05
    if len(shape) > 1:
        values *= np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
    return dtype, shape, values.astype(FLOATS[dtype]).tobytes()


def noise(dtype: str, item: float, *shape: int) -> tuple[str, tuple[int, ...], bytes]:
    rng = np.random.default_rng([7, *shape])
    return dtype, shape, rng.bytes(int(math.prod(shape) * item))


def model(folder: Path, tensors: Tensors, **files: str) -> Path:
    """A model directory."""
    folder.mkdir(parents=True)
    safetensors(folder / "model.safetensors", tensors)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def moved(tensor: tuple[str, tuple[int, ...], bytes], part: float, seed: int = 1):  # type: ignore[no-untyped-def]
    """The tensor with some of its floats a little larger or smaller."""
    dtype, shape, data = tensor
    rng = np.random.default_rng(seed)
    values = np.frombuffer(data, FLOATS[dtype]).astype(np.float64)
    hit = rng.random(values.shape) < part
    values = np.where(hit, values * (1 + 0.02 * rng.standard_normal(values.shape)), values)
    return dtype, shape, values.astype(FLOATS[dtype]).tobytes()


def content(folder: Path) -> dict[str, bytes]:
    """All files of a model that was packed or pulled."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    }


def cost(package: Path, source: str, target: str) -> int:
    m = manifest_of(package)
    return next(m.cost(u) for u in m.updates if (u.source, u.target) == (source, target))


def check_pull(package: Path, src: Path, target: Path, until: str = "exact") -> int:
    """Pull, compare, and return how many bytes that took."""
    result = pull(package, target, until=until)
    assert content(target) == content(src)
    return result.fetched


@dataclass
class Opened:
    """A package, decoded step by step."""

    folder: Path
    manifest: Manifest
    layout: Layout
    chunks: list[tuple[Chunk, ...]]
    states: list[list[bytes]]


def object_bytes(folder: Path, key: str, size: int, sha256: str) -> bytes:
    data = (folder / key).read_bytes()
    assert len(data) == size
    assert hashlib.sha256(data).hexdigest() == sha256
    return data


def decode(folder: Path) -> Opened:
    """All states of a package, checked against the manifest; the slow and plain way."""
    manifest = manifest_of(folder)
    (release,) = manifest.releases
    held = release.layout
    layout = parse_layout(object_bytes(folder, held.key, held.size, held.sha256), release)
    opened = Opened(folder, manifest, layout, [], [])
    files = [bytearray(os.urandom(f.size)) for f in release.files]
    used = {"p2u.json", held.key}
    for number, update in enumerate(manifest.updates):
        index = update.index
        data = object_bytes(folder, index.key, index.size, index.sha256)
        chunks = parse_index(data, update, ReleaseLayout(release, layout)).chunks
        opened.chunks.append(chunks)
        content = [(folder / b.key).read_bytes() for b in update.blobs]
        assert [len(c) for c in content] == [b.size for b in update.blobs]
        used |= {index.key, *(b.key for b in update.blobs)}
        for c in chunks:
            payload = content[c.blob][c.start : c.start + c.length]
            assert hashlib.sha256(payload).digest() == c.sha256
            apply(layout, files, c, payload)
        for entry, file in zip(release.files, files, strict=True):
            assert hashlib.sha256(file).hexdigest() == entry.digest(number), entry.path
        opened.states.append([bytes(f) for f in files])
    assert used == {p.name for p in folder.iterdir()}
    return opened


def apply(layout: Layout, files: list[bytearray], chunk: Chunk, payload: bytes) -> None:
    if chunk.pieces:
        data = decode_pieces(payload, chunk.pieces, "blob")
        for p in chunk.pieces:
            files[p.file][p.offset : p.offset + p.size] = data[: p.size]
            data = data[p.size :]
        return
    segments = []
    for seg in chunk.segments:
        t = layout.tensors[seg.tensor]
        first, elems = t.span(seg.first_row, seg.rows)
        start = t.offset + first * t.item
        view = memoryview(files[t.file])[start : start + elems * t.item]
        segments.append(core.Segment(view, elems, t.cols))
    core.apply(payload, t.dtype, t.item, segments)


def check_exact(opened: Opened, src: Path) -> None:
    """The last state is the model, file by file."""
    expected = {
        p.relative_to(src).as_posix(): p.read_bytes() for p in src.rglob("*") if p.is_file()
    }
    got = dict(zip((f.path for f in opened.manifest.latest.files), opened.states[-1], strict=True))
    assert got == expected


def tensor_bytes(opened: Opened, state: int, name: str) -> bytes:
    t = next(t for t in opened.layout.tensors if t.name == name)
    return opened.states[state][t.file][t.offset : t.offset + t.length]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}
