"""Adds later versions to a package without `p2u.publish`, for the tests of clients.

Every tensor that changed is coded anew, opaque. What is wrong can be wrong on purpose.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import zstandard
from manifests import manifest_of, write_manifest

from p2u import pack
from p2u.client.transfer.package_reader import PackageReader
from p2u.codec import core
from p2u.package.geometry import Chunk, Piece, Seg
from p2u.package.index import encode_index
from p2u.package.layout import ReleaseLayout, Tensor
from p2u.package.manifest import (
    Blob,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    state_digest,
)
from p2u.package.mapping import identity


def tensors(package: Path, version: str | None = None) -> ReleaseLayout:
    """A release, by default the last, and its layout."""
    with PackageReader(package) as opened:
        manifest = opened.manifest
        found = [r for r in manifest.releases if version in (None, r.version)][-1]
        return opened.model(found)


def add(
    package: Path,
    model: Path,
    version: str,
    *,
    parent: str | None = None,
    wrong: str | None = None,
) -> None:
    """Add a version with the same tensors at the same places, as an update from a parent.

    Args:
        package: It gets the version.
        model: Folder with its files.
        version: Its name.
        parent: Name of a version that is there; by default the last.
        wrong: ``"file"``: chunks that give other bytes than those of the digests; ``"payload"``: a
            chunk that cannot be decoded; ``"blob"``: a blob that is damaged; ``"missing"``: none.
    """
    base = tensors(package, parent)
    before = f"{base.release.version}@exact"
    old = _exact_files(package, before, base.release)
    new = [(model / file.path).read_bytes() for file in base.release.files]
    entries = tuple(
        FileEntry(file.path, len(data), (hashlib.sha256(data).hexdigest(),))
        for file, data in zip(base.release.files, new, strict=True)
    )
    assert [e.size for e in entries] == [f.size for f in base.release.files]
    payloads = list(_payloads(base, old, new))
    if wrong in ("file", "payload"):
        where, payload = payloads[-1]
        payloads[-1] = (where, _other(base, where, new) if wrong == "file" else b"\xff" * 40)
    chunks, at = [], 0
    for number, (where, payload) in enumerate(payloads):
        segments = (where,) if isinstance(where, Seg) else ()
        pieces = () if segments else (where,)
        digest = hashlib.sha256(payload).digest()
        chunks.append(Chunk(number, 0, at, len(payload), digest, segments, pieces))
        at += len(payload)
    blob = bytearray(b"".join(payload for _, payload in payloads))
    index = encode_index(chunks, identity(base))
    folder = package / version
    folder.mkdir()
    if wrong == "blob":
        blob[len(blob) // 2] ^= 1
    if blob and wrong != "missing":
        (folder / "exact-000.bin").write_bytes(blob)
    (folder / "exact.index").write_bytes(index)
    digest = state_digest((e.path, e.size, e.sha256[0]) for e in entries)
    state = State(version, "exact", digest, 0, None, 16.0)
    update = Update(
        before,
        state.id,
        Object(f"{version}/exact.index", len(index), hashlib.sha256(index).hexdigest()),
        (Blob(f"{version}/exact-000.bin", len(blob)),) if blob else (),
        len(blob),
        len(chunks),
    )
    manifest = manifest_of(package)
    release = Release(version, entries, base.release.layout, (state,))
    write_manifest(package, _plus(manifest, release, (update,)))


def add_base(package: Path, model: Path, version: str) -> None:
    """Add a version of its own: base and exact from nothing; its tensors may be others."""
    with tempfile.TemporaryDirectory() as tmp:
        alone = Path(tmp, "pkg")
        made = pack(model, alone, levels=("base", "exact"), jobs=2).manifest
        (old,) = made.releases
        known = {r.layout.sha256: r.layout for r in manifest_of(package).releases}
        shutil.copytree(alone, package / version)

    def moved(thing):
        return replace(thing, key=f"{version}/{thing.key}")

    def named(state: str | None) -> str | None:
        return state and f"{version}@{state.partition('@')[2]}"

    states = tuple(replace(s, version=version) for s in old.states)
    layout = known.get(old.layout.sha256, moved(old.layout))
    updates = tuple(
        Update(
            named(u.source),
            f"{version}@{u.target.partition('@')[2]}",
            moved(u.index),
            tuple(moved(b) for b in u.blobs),
            u.bytes,
            u.chunks,
        )
        for u in made.updates
    )
    write_manifest(
        package, _plus(manifest_of(package), Release(version, old.files, layout, states), updates)
    )


def _plus(manifest: Manifest, release: Release, updates: tuple[Update, ...]) -> Manifest:
    releases = [*manifest.releases]
    if release.version in [r.version for r in releases]:
        (place,) = [n for n, r in enumerate(releases) if r.version == release.version]
        releases[place] = release
        return replace(manifest, releases=tuple(releases), updates=manifest.updates + updates)
    releases.append(release)
    return replace(manifest, releases=tuple(releases), updates=manifest.updates + updates)


def _exact_files(package: Path, state: str, release: Release) -> list[bytes | None]:
    """What is known of the parent's files: only whether they are those of the child."""
    number = release.number(state)
    return [file.digest(number).encode() for file in release.files]


def _payloads(model: ReleaseLayout, old: list[bytes | None], new: list[bytes]):
    """``(place, payload)`` of all that files which changed hold."""
    for number, data in enumerate(new):
        if hashlib.sha256(data).hexdigest().encode() == old[number]:
            continue
        at = 0
        for place, tensor in enumerate(model.tensors):
            if tensor.file != number or not tensor.length:
                continue
            yield from _piece(number, data, at, tensor.offset)
            at = tensor.offset + tensor.length
            segment = Seg(place, 0, _rows(tensor))
            yield segment, _opaque(tensor, data[tensor.offset : at])
        yield from _piece(number, data, at, len(data))


def _piece(file: int, data: bytes, start: int, end: int):
    if end > start:
        frame = zstandard.ZstdCompressor().compress(data[start:end])
        yield Piece(file, start, end - start), frame


def _opaque(tensor: Tensor, data: bytes) -> bytes:
    segment = core.Segment(bytearray(data), tensor.elems, tensor.cols)
    return core.encode_opaque(tensor.item, [segment]).payloads[0]


def _rows(tensor: Tensor) -> int:
    return -(-tensor.elems // tensor.cols)


def _other(model: ReleaseLayout, where: Seg | Piece, new: list[bytes]) -> bytes:
    """A payload that decodes to other bytes."""
    if isinstance(where, Piece):
        data = bytearray(new[where.file][where.offset : where.offset + where.size])
        data[0] ^= 1
        return zstandard.ZstdCompressor().compress(bytes(data))
    tensor = model.tensors[where.tensor]
    data = bytearray(new[tensor.file][tensor.offset : tensor.offset + tensor.length])
    data[0] ^= 1
    return _opaque(tensor, bytes(data))
