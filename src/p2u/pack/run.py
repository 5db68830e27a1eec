"""The run from model to package."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from p2u.allocation import Recipe
from p2u.errors import UsageError
from p2u.formats import scan_model
from p2u.index import Chunk, encode_index
from p2u.manifest import (
    KEY,
    LAYOUT_KEY,
    MAX_INDEX,
    MAX_MANIFEST,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    check_paths,
    costs,
    state_digest,
    with_costs,
)
from p2u.manifest_parse import parse_manifest
from p2u.pack import PackProgress, PackReport, StateRow
from p2u.pack.allocate import Allocation, Fitter, Levels
from p2u.pack.blobs import BlobWriter, write_file
from p2u.pack.checks import Checks
from p2u.pack.cut import Job, cut, make_layout
from p2u.pack.encode import Coded, Encoder, encode_pieces
from p2u.pack.pool import in_order
from p2u.pack.publish import Workplace, check_target
from p2u.pack.rounding import Guide
from p2u.pack.source import Source
from p2u.pack.verify import Made, Verifier
from p2u.recipe import HALVINGS, Treatment, check_levels

#: Memory for chunks under way, in bytes, beside twice the largest tensor.
BUDGET = 96 << 20
FIRST_VERSION = "v1"


@dataclass(frozen=True, slots=True)
class Settings:
    """See `p2u.pack.pack`."""

    recipe: Recipe
    levels: tuple[str, ...]
    jobs: int
    blob_size: int
    name: str | None
    progress: Callable[[PackProgress], None] | None
    calibration: str | None = None
    thrift: float = 0.0


class _Sums:
    """What the progressive tensors of a package add up to."""

    def __init__(self, states: int) -> None:
        self.weights = 0
        self.bits = [0] * states
        self.signal = 0.0
        self.errors = [0.0] * states

    def add(self, job: Job, coded: Coded) -> None:
        """Count a chunk."""
        if not job.progressive:
            return
        self.weights += job.elems
        self.signal += coded.signal
        for state, error in enumerate(coded.errors):
            self.errors[state] += error
            self.bits[state] += sum(8 * len(p.data) for p in coded.payloads[: state + 1])

    def snr_db(self, state: int) -> float | None:
        """Signal-to-noise ratio in decibels; None if there is no noise."""
        error = self.errors[state]
        if error <= 0:
            return None
        ratio = self.signal / error
        if not math.isfinite(ratio) or ratio <= 0:
            return 0.0  # squares beyond the range of float64
        return round(10 * math.log10(ratio), 2)

    def average(self, state: int) -> float:
        """Bits per weight."""
        return round(self.bits[state] / self.weights, 3) if self.weights else 0.0


#: The chunks, the blobs of each update, and what the progressive tensors add up to.
_Written = tuple[list[Made], list[BlobWriter], _Sums]


class Packer:
    """One run; see `p2u.pack.pack`."""

    def __init__(self, src: str, dst: str, settings: Settings) -> None:
        self._src = src
        self._settings = settings
        self._labels = check_levels(settings.levels)
        self._model = scan_model(src)
        check_paths([file.path for file in self._model.files])
        # Of the file, not of its folder: a package may lie beside the file it is made of.
        self._target = check_target(dst, src)
        self._source = Source(self._model)
        self._layout = make_layout(self._model, settings.recipe.kept)
        self._guide = None
        if settings.calibration is not None:
            self._guide = Guide(settings.calibration, settings.thrift, self._layout)
        self._allocation = Allocation(self._layout, settings.recipe)
        jobs = cut(self._model, self._layout, self._allocation.grades)
        self._jobs = self._allocation.ordered(self._layout, jobs)
        self._total = sum(file.size for file in self._model.files)
        largest = max((t.length for t in self._layout.tensors), default=0)
        self._budget = 2 * largest + BUDGET

    def run(self) -> PackReport:
        """Pack."""
        levels = self._sampled()
        with Workplace(self._target) as place:
            levels, (made, blobs, sums) = self._fitted(place, levels)
            digests = Verifier(
                place.path,
                self._source,
                self._layout,
                made,
                [writer.blobs for writer in blobs],
                self._settings.jobs,
                self._budget,
                lambda done: self._tell("verify", done),
            ).run()
            self._tell("publish", 0)
            manifest = self._manifest(place.path, made, blobs, digests, sums)
            data = manifest.to_bytes()
            if len(data) > MAX_MANIFEST or parse_manifest(data) != manifest:
                raise UsageError("the model has too many files for one package", file=self._src)
            write_file(place.path / KEY, data)
            place.publish()
            self._tell("publish", self._total)
        return self._report(manifest, levels)

    def _tell(self, phase: str, done: int) -> None:
        if self._settings.progress:
            self._settings.progress(PackProgress(phase, done, self._total))

    def _sampled(self) -> Levels:
        self._tell("measure", 0)
        levels = self._allocation.sampled(
            self._source, self._layout, self._jobs, self._settings.jobs
        )
        self._tell("measure", self._total)
        return levels

    def _fitted(self, place: Workplace, levels: Levels) -> tuple[Levels, _Written]:
        """Write all blobs, the base's within the budget if there is one."""
        recipe = self._settings.recipe
        budget = recipe.budget
        if recipe.ratio is not None:
            budget = int(recipe.ratio * self._total)
        if budget is None:
            return levels, self._encode(place.path, levels.offsets())
        layout_size = len(self._layout.to_bytes())
        fitter = Fitter(
            levels, self._jobs, self._encoder, self._settings.jobs, self._budget, layout_size
        )
        more = 0
        while True:
            levels = fitter.fit(budget, more)
            written = self._encode(place.path, levels.offsets())
            made, writers, _ = written
            index = len(encode_index([m.chunks[0] for m in made]))
            size = layout_size + index + sum(blob.size for blob in writers[0].blobs)
            if size <= budget:
                return levels, written
            # What only a whole run shows: checksums, fed-back codes, chunks that went opaque.
            more = max(more + 1, size - fitter.size(levels.free))
            place.clear()

    def _encoder(self, offsets: list[int], checks: Checks | None = None) -> Encoder:
        """One for the package; without checks, one to measure with."""
        halvings = [HALVINGS[label] for label in self._labels[1:]]
        if checks is None:
            return Encoder(self._source, self._layout, Checks((), self._layout), halvings, offsets)
        return Encoder(self._source, self._layout, checks, halvings, offsets, self._guide)

    def _encode(self, folder: Path, offsets: list[int]) -> _Written:
        """Write all blobs."""
        checks = Checks(self._model.files, self._layout)
        encoder = self._encoder(offsets, checks)
        writers = [BlobWriter(folder, label, self._settings.blob_size) for label in self._labels]
        sums = _Sums(len(self._labels))
        made: list[Made] = []
        done = 0

        def put(job: Job, coded: Coded) -> None:
            chunks = []
            for writer, payload in zip(writers, coded.payloads, strict=False):
                blob, start = writer.add(payload.data)
                length = len(payload.data)
                chunks.append(
                    Chunk(len(made), blob, start, length, payload.sha256, job.segments, job.pieces)
                )
            made.append(Made(job, tuple(chunks)))

        results = in_order(
            self._jobs, encoder.encode, encoder.cost, self._settings.jobs, self._budget
        )
        try:
            for job, coded in results:
                sums.add(job, coded)
                checks.add(job, coded.sums)
                put(job, coded)
                done += job.size
                self._tell("encode", done)
            for job, states in checks.jobs(self._source, len(writers)):
                put(job, encode_pieces(states))
        finally:
            results.close()
            for writer in writers:
                writer.close()
        return made, writers, sums

    def _manifest(
        self,
        folder: Path,
        made: list[Made],
        writers: list[BlobWriter],
        digests: list[tuple[str, ...]],
        sums: _Sums,
    ) -> Manifest:
        """Write layout and indices, and describe all."""
        layout = _write(folder, LAYOUT_KEY, self._layout.to_bytes())
        files = tuple(
            FileEntry(file.path, file.size, digest)
            for file, digest in zip(self._model.files, digests, strict=True)
        )
        states: list[State] = []
        updates: list[Update] = []
        for number, (label, writer) in enumerate(zip(self._labels, writers, strict=True)):
            chunks = [m.chunks[number] for m in made if number < len(m.chunks)]
            index = _write(folder, f"{label}.index", encode_index(chunks))
            if index.size > MAX_INDEX:
                raise UsageError("the model is too large for one package", file=self._src)
            size = sum(blob.size for blob in writer.blobs)
            states.append(
                State(
                    f"{FIRST_VERSION}@{label}",
                    label,
                    FIRST_VERSION,
                    state_digest((f.path, f.size, f.digest(number)) for f in files),
                    None,
                    sums.snr_db(number),
                    sums.average(number),
                )
            )
            source = states[number - 1].id if number else None
            updates.append(
                Update(source, states[-1].id, index, tuple(writer.blobs), size, len(chunks))
            )
        name = self._settings.name
        if name is None:
            path = Path(os.path.realpath(self._src))
            name = path.stem if path.is_file() else path.name
        release = Release(FIRST_VERSION, files, layout, tuple(states))
        return with_costs(Manifest(name, (release,), tuple(updates), _generator()))

    def _report(self, manifest: Manifest, levels: Levels) -> PackReport:
        size = costs(manifest)
        rows = tuple(
            StateRow(s.label, size[s.id], size[s.id] / self._total, s.bits, s.snr_db)
            for s in manifest.states
        )
        offsets = {
            t.name: offset
            for t, grade, offset in zip(
                self._layout.tensors, self._allocation.grades, levels.offsets(), strict=True
            )
            if grade.how is Treatment.PROGRESSIVE
        }
        return PackReport(manifest, self._total, rows, offsets)


def _write(folder: Path, key: str, data: bytes) -> Object:
    write_file(folder / key, data)
    return Object(key, len(data), hashlib.sha256(data).hexdigest())


def _generator() -> str:
    try:
        return f"p2u-models {metadata.version('p2u-models')}"
    except metadata.PackageNotFoundError:  # run from the source tree
        return "p2u-models"
