"""A package on disk to the files of a state: sections 2 to 5 of SPEC.md once more, plainly.

It follows the text, not p2u's client. What a reader must refuse is checked where that is a line.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from oracle.decode import decode_chunk
from oracle.wire import Malformed, unzigzag

Json = dict[str, Any]
#: Path to content.
Model = dict[str, bytes]

FLOATS = ("F32", "F16", "BF16")
#: Block type to elements and bytes (section 5.2).
BLOCKS = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}  # fmt: skip
#: Kinds of chunks that ignore previous bytes, and the one of refinements.
FRESH, REFINE = (0, 1, 3), 2


@dataclass(frozen=True)
class Tensor:
    """An entry of a layout (section 4)."""

    name: str
    dtype: str
    shape: list[int]
    file: int
    offset: int
    length: int
    cols: int
    item: int

    @property
    def elems(self) -> int:
        """Number of elements."""
        return self.length // self.item


@dataclass(frozen=True)
class Segment:
    """What `decode_chunk` wants of a segment."""

    mem: bytes
    elems: int
    cols: int


def need(holds: object, what: str) -> None:
    """Raise Malformed unless it holds."""
    if not holds:
        raise Malformed(what)


class Reader:
    """A package.

    Args:
        folder: The package.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest: Json = json.loads((folder / "p2u.json").read_text("utf-8"))
        need(self.manifest["format"] == "p2u", "the format")
        need(self.manifest["version"] == 1, "the version")
        self.releases: list[Json] = self.manifest["releases"]
        #: Kinds of chunks that were met.
        self.kinds: set[int] = set()
        #: Id to release and number of the state in it, in order.
        self.places: dict[str, tuple[Json, int]] = {}
        for release in self.releases:
            for number, state in enumerate(release["states"]):
                self.places[f"{release['version']}@{state['label']}"] = release, number

    def read(self, state: str, given: Mapping[str, Model] | None = None) -> Model:
        """The files of a state, on the cheapest way from nothing or from what is given, by id."""
        known: dict[str | None, Model] = {None: {}, **(given or {})}
        way = self._ways(known)[state][1]
        need(way or state in known, "no way")
        model = known[way[0]["source"]] if way else known[state]
        for update in way:
            model = self._apply(update, model)
        return model

    def check_costs(self) -> None:
        """Each state's ``bytes`` are those of the cheapest way from nothing."""
        ways = self._ways({None: {}})
        for id_, (release, number) in self.places.items():
            cost = ways[id_][0] if id_ in ways else None
            need(release["states"][number]["bytes"] == cost, f"the bytes of {id_}")

    def _ways(self, known: Mapping[str | None, Model]) -> dict[str | None, tuple[int, list[Json]]]:
        """Cost of, and updates to, all that can be reached."""
        found: dict[str | None, tuple[int, list[Json]]] = {state: (0, []) for state in known}
        order = list(self.places)
        for update in sorted(self.manifest["updates"], key=lambda u: order.index(u["target"])):
            if update["source"] in found:
                cost, way = found[update["source"]]
                cost += self._cost(update)
                if update["target"] not in found or cost < found[update["target"]][0]:
                    found[update["target"]] = cost, [*way, update]
        return found

    def _cost(self, update: Json) -> int:
        layout = self.places[update["target"]][0]["layout"]
        size = int(update["index"]["size"] + update["bytes"])
        if update["source"] is not None:
            before = self.places[update["source"]][0]["layout"]
            if before["sha256"] == layout["sha256"]:
                return size
        return size + int(layout["size"])

    def _object(self, found: Json) -> bytes:
        data = (self._folder / found["key"]).read_bytes()
        need(len(data) == found["size"], "the size of an object")
        need(hashlib.sha256(data).hexdigest() == found["sha256"], "the digest of an object")
        return data

    def _tensors(self, release: Json) -> list[Tensor]:
        text = zstandard.ZstdDecompressor().decompress(self._object(release["layout"]))
        return [Tensor(*entry) for entry in json.loads(text)["tensors"]]

    def _apply(self, update: Json, model: Model) -> Model:
        """One update: from the files of its source to those of its target."""
        release, number = self.places[update["target"]]
        source = self.places[update["source"]][0] if update["source"] is not None else None
        crosses = source is not None and source is not release
        step = _Step(release["files"], self._tensors(release), update["source"] is not None)
        index = _Index(self._object(update["index"]))
        need(index.byte() == crosses, "a map between releases, and no other")
        if source is not None:
            before = [model[file["path"]] for file in source["files"]]
            step.tensor_map = [n for n, _ in enumerate(step.tensors)]
            step.file_map = [n for n, _ in enumerate(step.files)]
            if crosses:
                step.tensor_map = [index.varint() - 1 for _ in step.tensors]
                step.file_map = [index.varint() - 1 for _ in step.files]
            step.begin(before, self._tensors(source))
        blobs = b"".join((self._folder / b["key"]).read_bytes() for b in update["blobs"])
        need(len(blobs) == update["bytes"] == sum(b["size"] for b in update["blobs"]), "blobs")
        ends = {0}
        for blob in update["blobs"]:
            ends.add(max(ends) + blob["size"])
        at = last = 0
        count = index.varint()
        need(count == update["chunks"], "the number of chunks")
        for _ in range(count):
            kind, length, digest = index.byte(), index.varint(), index.take(32)
            payload = blobs[at : at + length]
            need(not any(at < end < at + length for end in ends), "a chunk lies in one blob")
            at += length
            need(hashlib.sha256(payload).digest() == digest, "the digest of a chunk")
            if kind == 0:
                segments = []
                for _ in range(index.varint()):
                    last += unzigzag(index.varint())
                    segments.append((last, index.varint(), index.varint()))
                self.kinds.add(payload[0])
                step.rows(payload, segments, crosses)
            else:
                step.carried(payload, index.places(kind))
        need(at == len(blobs) and index.ended, "nothing follows the last chunk")
        return step.end([file["sha256"] for file in release["files"]], release["states"], number)


class _Index:
    """The bytes of an index, in order."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        need(self.take(4) == b"P2UI" and self.byte() == 1, "an index")

    @property
    def ended(self) -> bool:
        """Whether all was read."""
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        """So many bytes."""
        self._at += count
        need(self._at <= len(self._data), "the index ends early")
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        """A byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """A LEB128 integer."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def places(self, kind: int) -> list[tuple[int, int, int]]:
        """File, offset and size of a chunk of bytes."""
        need(kind in (1, 2), "the type of a chunk")
        found, file, end = [], 0, 0
        for _ in range(1 if kind == 1 else self.varint()):
            step, offset, size = self.varint(), self.varint(), self.varint()
            if step:
                file, end = file + step, 0
            found.append((file, end + offset, size))
            end += offset + size
        return found


class _Step:
    """The files of a target while they are made.

    Args:
        files: Of the target's release.
        tensors: Its layout.
        copies: Whether what no chunk brings comes from somewhere.
    """

    def __init__(self, files: list[Json], tensors: list[Tensor], copies: bool) -> None:
        self.files, self.tensors = files, tensors
        self.tensor_map: list[int] = []
        self.file_map: list[int] = []
        self._copies = copies
        self._made = [bytearray(file["size"]) for file in files]
        #: For each byte whether a chunk has brought it.
        self._brought = [bytearray(file["size"]) for file in files]
        self._before: list[bytes] = []
        self._old: list[Tensor] = []

    def begin(self, before: list[bytes], old: list[Tensor]) -> None:
        """What the update begins at."""
        self._before, self._old = before, old

    def _put(self, file: int, offset: int, data: bytes) -> None:
        end = offset + len(data)
        need(end <= len(self._made[file]), "bytes beyond the file")
        need(1 not in self._brought[file][offset:end], "a byte appears twice")
        self._made[file][offset:end] = data
        self._brought[file][offset:end] = b"\1" * len(data)

    def carried(self, payload: bytes, places: Sequence[tuple[int, int, int]]) -> None:
        """A chunk of bytes that belong to no tensor."""
        data = zstandard.ZstdDecompressor().decompress(payload)
        need(len(data) == sum(size for _, _, size in places), "the size of a chunk")
        for file, offset, size in places:
            self._put(file, offset, data[:size])
            data = data[size:]

    def rows(self, payload: bytes, rows: Sequence[tuple[int, int, int]], crosses: bool) -> None:
        """A chunk of rows: tensor, first row, number of rows of each segment."""
        fresh = payload[0] in FRESH
        need(fresh or self._copies, "previous bytes in an update from nothing")
        need(not (crosses and payload[0] == REFINE), "a refinement between releases")
        segments, sources, spans = [], [], []
        for number, first, count in rows:
            t = self.tensors[number]
            a, b = first * t.cols, min((first + count) * t.cols, t.elems)
            prior = b"" if fresh else self._corresponding(number, a, b)
            blank = bytes((b - a) * t.item)
            segments.append(Segment(blank if crosses or fresh else prior, b - a, t.cols))
            sources.append(prior)
            spans.append((t.file, t.offset + a * t.item))
        kind = self.tensors[rows[0][0]]
        out = decode_chunk(
            payload, kind.dtype, kind.item, segments,
            sources=sources if crosses and not fresh else None,
        )  # fmt: skip
        for (file, offset), data in zip(spans, out, strict=True):
            self._put(file, offset, data)

    def _corresponding(self, number: int, a: int, b: int) -> bytes:
        """What corresponds to a segment (section 5.2)."""
        t, source = self.tensors[number], self.tensor_map[number]
        need(source >= 0, "nothing corresponds")
        old = self._old[source]
        n, m = 1, old.item
        if old.dtype in BLOCKS and t.dtype in FLOATS:
            n, m = BLOCKS[old.dtype]
        need(a % n == 0 and b % n == 0 and b // n * m <= old.length, "nothing corresponds")
        begin = old.offset
        return self._before[old.file][begin + a // n * m : begin + b // n * m]

    def end(self, digests: list[list[str]], states: list[Json], number: int) -> Model:
        """Copy what no chunk brought, and compare digests."""
        for file, brought in enumerate(self._brought):
            if 0 not in brought:
                continue
            need(self._copies, "an update from nothing brings every byte")
            self._copy(file, brought)
        lines = []
        for file, data in zip(self.files, self._made, strict=True):
            shas = file["sha256"]
            wanted = shas[number] if len(shas) > 1 else shas[0]
            need(hashlib.sha256(data).hexdigest() == wanted, f"the digest of {file['path']}")
            lines.append((file["path"], f"{wanted} {file['size']} {file['path']}\n"))
        text = "".join(line for _, line in sorted(lines))
        need(hashlib.sha256(text.encode()).hexdigest() == states[number]["digest"], "the digest")
        return {f["path"]: bytes(m) for f, m in zip(self.files, self._made, strict=True)}

    def _copy(self, file: int, brought: bytearray) -> None:
        """Run by run, cut where tensors begin and end."""
        bounds = {0, len(brought)}
        owners: dict[int, int] = {}
        for number, t in enumerate(self.tensors):
            if t.file == file and t.length:
                bounds |= {t.offset, t.offset + t.length}
                owners[t.offset] = number
        for first, last in itertools.pairwise(sorted(bounds)):
            owner = owners.get(first)
            if owner is None:
                source, shift, most = self.file_map[file], 0, -1
            else:
                t, number = self.tensors[owner], self.tensor_map[owner]
                old = self._old[number] if number >= 0 else t
                same = number >= 0 and (old.dtype, old.item) == (t.dtype, t.item)
                source = old.file if same else -1
                shift, most = old.offset - t.offset, t.offset + old.length
            for run in re.finditer(b"\0+", brought[first:last]):
                start, end = first + run.start(), first + run.end()
                need(source >= 0 and (owner is None or end <= most), "bytes from nowhere")
                data = self._before[source][start + shift : end + shift]
                need(len(data) == end - start, "bytes from nowhere")
                self._made[file][start:end] = data
