"""P2U's decoder from memory to memory: a client without files, hashes and network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2u.codec import chunk as codec
from p2u.package.geometry import Chunk, all_spans, chunk_spans
from p2u.package.index import parse_index
from p2u.package.layout import ReleaseLayout, parse_layout
from p2u.package.manifest import Manifest
from p2u.package.manifest_parse import parse_manifest
from p2u.package.mapping import CopiedRange, Map, copies, source_spans
from p2u.package.paths import MANIFEST_KEY


@dataclass(frozen=True)
class Step:
    """One update, its bytes in memory.

    Attributes:
        chunks: In the order of the index.
        blobs: Bytes of its blobs.
        target: The release that it leads to.
        source: The release that it begins at, if that is another one.
        map: What corresponds in the source.
        same: What is copied from the source.
    """

    chunks: Sequence[Chunk]
    blobs: Sequence[memoryview]
    target: ReleaseLayout
    source: ReleaseLayout | None
    map: Map | None
    same: Sequence[CopiedRange]

    def payload(self, chunk: Chunk) -> memoryview:
        """Bytes of a chunk."""
        return self.blobs[chunk.blob][chunk.start : chunk.start + chunk.length]

    def apply(self, chunk: Chunk, out: memoryview, parent: memoryview | None) -> None:
        """Decode a chunk into the file, which holds the state before."""
        payload = self.payload(chunk)
        spans = chunk_spans(chunk, self.target.layout)
        buffers = [out[span.offset : span.offset + span.size] for span in spans]
        sources = None
        if parent is not None and self.source is not None and self.map is not None:
            found = source_spans(chunk, self.map, self.target, self.source)
            sources = [None if s is None else parent[s.offset : s.offset + s.size] for s in found]
        codec.apply_chunk(
            chunk, payload, self.target.layout, spans, buffers, "blob", sources=sources
        )


def apply_all(work: Sequence[tuple[Step, Chunk]], out: memoryview) -> None:
    """Decode the chunks of some rows through all levels into the file."""
    step, chunk = work[0]
    spans = chunk_spans(chunk, step.target.layout)
    buffers = [out[span.offset : span.offset + span.size] for span in spans]
    chunks = [codec.ChunkPayload(chunk, step.payload(chunk), "blob") for step, chunk in work]
    codec.apply_chunks(chunks, step.target.layout, spans, buffers)


def read_manifest(package: Path) -> Manifest:
    """The manifest of a package in a folder."""
    return parse_manifest((package / MANIFEST_KEY).read_bytes())


def decoder(
    package: Path, parent: Path | None = None, threads: int = 1
) -> Callable[[], memoryview]:
    """What decodes all updates of a package of one file, straight to its last state.

    Args:
        package: Its folder; everything is read before this returns.
        parent: The file that the first update begins at; None if it begins at nothing.
        threads: How many decode chunks.

    Returns:
        A function that returns the file of the last state.
    """
    manifest = read_manifest(package)
    models = {
        release.version: ReleaseLayout(
            release, parse_layout((package / release.layout.key).read_bytes(), release)
        )
        for release in manifest.releases
    }
    steps = []
    for update in manifest.updates:
        target, source = models[manifest.release(update.target).version], None
        if update.source is not None and manifest.crosses(update):
            source = models[manifest.release(update.source).version]
        index = parse_index((package / update.index.key).read_bytes(), update, target, source)
        same: Sequence[CopiedRange] = ()
        if source is not None and index.map is not None:
            same = copies(
                all_spans(index.chunks, target.layout), index.map, target, source, "index"
            )
        blobs = [memoryview((package / blob.key).read_bytes()) for blob in update.blobs]
        steps.append(Step(index.chunks, blobs, target, source, index.map, same))
    before = None if parent is None else memoryview(parent.read_bytes())
    size = steps[-1].target.files[0].size

    def level(step: Step) -> list[list[tuple[Step, Chunk]]]:
        return [[(step, chunk)] for chunk in step.chunks]

    # As a client does it that has all levels: each chunk of the first one, and at once the same
    # bytes of the others. Where the levels are cut differently, one level after the other.
    inside = before is None and all(step.source is None for step in steps)
    straight: dict[object, list[tuple[Step, Chunk]]] = {}
    for step in steps:
        for chunk in step.chunks:
            straight.setdefault((chunk.segments, chunk.pieces), []).append((step, chunk))
    inside = inside and len(straight) == len(steps[0].chunks)
    if inside:
        rounds = [((), list(straight.values()))]
    else:
        rounds = [(step.same, level(step)) for step in steps]

    def run() -> memoryview:
        # Not cleared: every byte is written.
        view = memoryview(np.empty(size, np.uint8))

        def apply(work: Sequence[tuple[Step, Chunk]]) -> None:
            if inside:
                apply_all(work, view)
                return
            for step, chunk in work:
                step.apply(chunk, view, before)

        with ThreadPoolExecutor(threads) as pool:
            for same, works in rounds:
                for c in same:
                    assert before is not None
                    view[c.offset : c.offset + c.size] = before[
                        c.source_offset : c.source_offset + c.size
                    ]
                if threads == 1:
                    for work in works:
                        apply(work)
                else:
                    list(pool.map(apply, works))
        return view

    return run
