"""Puts packages of several releases together by hand, for the tests of the client."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import kit
import zstandard
from manifests import manifest_of, write_manifest

from p2u.codec import core
from p2u.package.geometry import Chunk, Piece, Seg
from p2u.package.index import encode_index, parse_index
from p2u.package.layout import ReleaseLayout, parse_layout
from p2u.package.manifest import Blob, Manifest, Object, Release, State, Update
from p2u.package.mapping import Map, source_bytes
from p2u.packing.api import pack
from p2u.types import PROGRESSIVE

#: Elements per chunk of an update between releases.
STEP = 1 << 12


def put(package: Path, key: str, data: bytes) -> Object:
    """Write an object of a package."""
    path = package / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Object(key, len(data), hashlib.sha256(data).hexdigest())


def read_model(package: Path, release: Release) -> ReleaseLayout:
    return ReleaseLayout(
        release, parse_layout((package / release.layout.key).read_bytes(), release)
    )


def add_release(package: Path, version: str, model: Path, *, fresh: bool) -> None:
    """Pack a model and add it to a package as its next release; ``fresh``: with its updates."""
    made = package.with_name(f"{package.name}-{version}")
    pack(model, made, jobs=2, name="model")
    found = manifest_of(made)
    (old,) = found.releases
    new_ids = {s.id: replace(s, version=version).id for s in old.states}
    updates = []
    for update in found.updates if fresh else ():
        blobs = []
        for blob in update.blobs:
            put(package, f"{version}/{blob.key}", (made / blob.key).read_bytes())
            blobs.append(Blob(f"{version}/{blob.key}", blob.size))
        index = put(
            package, f"{version}/{update.index.key}", (made / update.index.key).read_bytes()
        )
        source = None if update.source is None else new_ids[update.source]
        updates.append(
            replace(
                update,
                source=source,
                target=new_ids[update.target],
                index=index,
                blobs=tuple(blobs),
            )
        )
    layout = (made / old.layout.key).read_bytes()
    states, files = old.states, old.files
    if not fresh:  # there is the exact state only
        states = old.states[-1:]
        files = tuple(replace(f, sha256=f.sha256[-1:]) for f in old.files)
    states = tuple(replace(s, version=version, bytes=None) for s in states)
    before = manifest_of(package) if (package / "p2u.json").exists() else None
    shared = [r.layout for r in before.releases] if before else []
    same = [o for o in shared if o.sha256 == old.layout.sha256]
    held = same[0] if same else put(package, f"{version}/layout.json.zst", layout)
    release = Release(version, files, held, states)
    shutil.rmtree(made)
    if before is None:
        write_manifest(package, Manifest("model", (release,), tuple(updates)))
        return
    # Not valid before an update leads to it: `connect` writes it.
    pending = Manifest("model", (*before.releases, release), (*before.updates, *updates))
    if fresh:
        write_manifest(package, pending)
    else:
        _PENDING[package] = pending


_PENDING: dict[Path, Manifest] = {}


def connect(
    package: Path,
    source: str,
    target: str,
    before: Path,
    after: Path,
    renamed: dict[str, str] | None = None,
) -> None:
    """Add an update between two states of different releases, whose bytes are in two folders."""
    manifest = _PENDING.pop(package, None) or manifest_of(package)
    old = read_model(package, manifest.release(source))
    new = read_model(package, manifest.release(target))
    name = f"{source}-{target}".replace("@", ".")
    found, chunks, data = make_update(old, new, before, after, renamed or {})
    index = put(package, f"{name}.index", encode_index(chunks, found))
    blobs = ()
    if data:
        put(package, f"{name}.bin", data)
        blobs = (Blob(f"{name}.bin", len(data)),)
    update = Update(source, target, index, blobs, len(data), len(chunks))
    parse_index(encode_index(chunks, found), update, new, old)
    write_manifest(package, replace(manifest, updates=(*manifest.updates, update)))


def make_update(
    old: ReleaseLayout, new: ReleaseLayout, before: Path, after: Path, renamed: dict[str, str]
) -> tuple[Map, list[Chunk], bytes]:
    """The map, and chunks for all that it does not bring: deltas where floats correspond."""
    names = {t.name: n for n, t in enumerate(old.tensors)}
    paths = {f.path: n for n, f in enumerate(old.files)}
    found = Map(
        tuple(names.get(renamed.get(t.name, t.name)) for t in new.tensors),
        tuple(paths.get(f.path) for f in new.files),
    )
    was = [(before / f.path).read_bytes() for f in old.files]
    now = [(after / f.path).read_bytes() for f in new.files]
    chunks: list[Chunk] = []
    payloads: list[bytes] = []

    def add(payload: bytes, segments: tuple[Seg, ...], pieces: tuple[Piece, ...]) -> None:
        sha = hashlib.sha256(payload).digest()
        start = sum(map(len, payloads))
        chunks.append(Chunk(len(chunks), 0, start, len(payload), sha, segments, pieces))
        payloads.append(payload)

    inside = [bytearray(len(data)) for data in now]
    for number, t in enumerate(new.tensors):
        inside[t.file][t.offset : t.offset + t.length] = b"\1" * t.length
        parent = found.tensors[number]
        s = old.tensors[parent] if parent is not None else None
        same = s is not None and (s.dtype, s.item) == (t.dtype, t.item)
        old_bytes = was[s.file][s.offset : s.offset + s.length] if same else b""
        new_bytes = now[t.file][t.offset : t.offset + t.length]
        stride = t.cols * t.item

        changed = [
            old_bytes[at : at + stride] != new_bytes[at : at + stride]
            for at in range(0, t.length, stride)
        ]
        for run in runs(changed):
            step = max(1, STEP // t.cols)
            for at in range(0, len(run), step):
                first, count = run[at], len(run[at : at + step])
                begin, elems = t.span(first, count)
                memory = bytearray(new_bytes[begin * t.item : (begin + elems) * t.item])
                segment = core.Segment(memory, elems, t.cols)
                part = source_bytes(t, s, begin, elems) if s is not None else None
                if s is not None and part is not None and {t.dtype, s.dtype} <= {*PROGRESSIVE}:
                    start = s.offset + part[0]
                    source = bytearray(was[s.file][start : start + part[1]])
                    payload = core.encode_delta(t.dtype, [segment], [source], s.dtype)
                else:
                    payload = core.encode_opaque(t.item, [segment]).payloads[0]
                add(bytes(payload), (Seg(number, first, count),), ())
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    for file, data in enumerate(now):
        parent = found.files[file]
        other = was[parent] if parent is not None else b""

        missing = [
            not covered and other[at : at + 1] != data[at : at + 1]
            for at, covered in enumerate(inside[file])
        ]
        for run in runs(missing):
            payload = compress(data[run[0] : run[-1] + 1])
            add(payload, (), (Piece(file, run[0], len(run)),))
    return found, chunks, b"".join(payloads)


def add_foreign(package: Path, version: str, model: Path) -> None:
    """Put a release that is not delivered before all others."""
    made = package.with_name(f"{package.name}-{version}")
    pack(model, made, jobs=2, name="model")
    (old,) = manifest_of(made).releases
    files = tuple(replace(f, sha256=f.sha256[-1:]) for f in old.files)
    state = State(version, "exact", old.states[-1].digest, None, None, 4.5)
    layout = put(package, f"{version}/layout.json.zst", (made / old.layout.key).read_bytes())
    release = Release(version, files, layout, (state,), foreign=True)
    shutil.rmtree(made)
    manifest = manifest_of(package)
    write_manifest(package, replace(manifest, releases=(release, *manifest.releases)))


def runs(flags: list[bool]) -> Iterator[list[int]]:
    """The places of neighbours that are true."""
    for is_true, group in groupby(range(len(flags)), flags.__getitem__):
        if is_true:
            yield list(group)


# --- models


def write_aligned(source: Path, folder: Path, seed: int = 1) -> None:
    """The same tensors and files, some of their elements changed."""
    shutil.copytree(source, folder)
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        data = bytearray(path.read_bytes())
        header = 8 + struct.unpack_from("<Q", data)[0]
        for at in range(header + 2 * seed + number, len(data), 20011):
            data[at] ^= 1
        path.write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "tesu"}')


def write_moved(source: Path, folder: Path) -> None:
    """Tensors added, removed, renamed, longer, of another shape, dtype and file; files too."""
    folder.mkdir()
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        data = path.read_bytes()
        size = struct.unpack_from("<Q", data)[0]
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                body = data[8 + size + begin : 8 + size + end]
                tensors[name] = (entry["dtype"], tuple(entry["shape"]), body)
    del tensors["layers.0.norm"]
    dtype, (rows, cols), data = tensors.pop("embed.weight")
    tensors["embed.longer"] = (dtype, (rows + 20, cols), data + kit.floats(20 * cols, dtype, 70))
    dtype, (rows, cols), data = tensors["layers.0.w"]
    tensors["layers.0.w"] = (dtype, (cols, rows), data)
    tensors["layers.1.w"] = ("BF16", (128, 200), kit.floats(128 * 200, "BF16", 71))
    tensors["new.w"] = ("F32", (64, 64), kit.floats(64 * 64, "F32", 72))
    listed = [(name, *tensors[name]) for name in sorted(tensors, reverse=True)]
    kit.write_safetensors(folder / "model.safetensors", listed)
    (folder / "config.json").write_text('{"model_type": "moved", "new": true}')
    shutil.copy(source / "tokenizer.json", folder)
    with open(folder / "tokenizer.json", "ab") as file:
        file.write(b"one word more\n")
    shutil.copy(source / "extra.npz", folder)
    (folder / "added").mkdir()
    (folder / "added" / "notes.txt").write_text("new in this version\n" * 40)


#: What is called otherwise in the moved model.
RENAMED = {"embed.longer": "embed.weight"}


@dataclass(frozen=True)
class Versions:
    """A package of three releases: v1 and v2 of the same tensors, v3 of others.

    v1 and v2 have three states each from nothing; updates lead from exact to exact of the next.
    """

    package: Path
    models: dict[str, Path]

    @property
    def manifest(self) -> Manifest:
        return manifest_of(self.package)

    def update(self, source: str | None, target: str) -> Update:
        updates = self.manifest.updates
        return next(u for u in updates if (u.source, u.target) == (source, target))

    def state(self, folder: Path) -> str | None:
        """Id of the state that a folder holds by its digests, and holds nothing else of ours."""
        if not folder.exists():
            return None
        content = kit.tree(folder)
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
        ours = {f.path for release in self.manifest.releases for f in release.files}
        for release in reversed(self.manifest.releases):
            for number, state in enumerate(release.states):
                wanted = {f.path: f.digest(number) for f in release.files}
                if wanted == {path: sha for path, sha in digests.items() if path in ours}:
                    return state.id
        return None


def make_versions(folder: Path) -> Versions:
    models = {version: folder / f"model-{version}" for version in ("v1", "v2", "v3")}
    kit.write_model(models["v1"])
    write_aligned(models["v1"], models["v2"])
    write_moved(models["v2"], models["v3"])
    package = folder / "package"
    package.mkdir()
    add_release(package, "v1", models["v1"], fresh=True)
    add_release(package, "v2", models["v2"], fresh=True)
    connect(package, "v1@exact", "v2@exact", models["v1"], models["v2"])
    add_release(package, "v3", models["v3"], fresh=False)
    connect(package, "v2@exact", "v3@exact", models["v2"], models["v3"], RENAMED)
    return Versions(package, models)
