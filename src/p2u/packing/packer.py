"""Pack a model into the first version of a package, or into a version's own base."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from p2u.codec import plain
from p2u.disk.access import common_bits
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.errors import UsageError
from p2u.formats import ScannedModel, scan_model
from p2u.package.geometry import chunk_spans
from p2u.package.index import encode_index
from p2u.package.manifest import (
    LAYOUT_KEY,
    MAX_INDEX,
    MAX_MANIFEST,
    Blob,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    state_digest,
    with_costs,
)
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY, RESERVED, check_paths
from p2u.packing.allocation.allocate import Allocation, Fitter, Levels
from p2u.packing.chunking.checks import Checks
from p2u.packing.chunking.cut import cut, make_layout
from p2u.packing.chunking.pool import in_order
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.levels.chunk_pass import ChunkPass
from p2u.packing.levels.encode import Encoder, encode_pieces
from p2u.packing.levels.read_back import LevelChunks
from p2u.packing.levels.state_hashes import StateHashes
from p2u.packing.package_folder.blobs import write_new
from p2u.packing.package_folder.level_blobs import LevelBlobs
from p2u.packing.package_folder.new_package import NewPackage, check_target
from p2u.packing.pulled import check_exact
from p2u.packing.recipe import check_levels, halvings
from p2u.packing.report import PackProgress, PackReport, make_report
from p2u.packing.rounding.plan import CalibrationPlan
from p2u.packing.settings import PackSettings
from p2u.stores.package_lock import package_lock

#: Memory for chunks under way, in bytes, in addition to twice the largest tensor.
BUDGET = 96 << 20
FIRST_VERSION = "v1"


#: The blobs, and the hashes of all states.
_Written = tuple[LevelBlobs, StateHashes]


@dataclass(frozen=True, slots=True)
class Built:
    """A release with its levels, written to a folder.

    Attributes:
        release: Its states state no costs.
        updates: From nothing to the base, and on to exact.
        offsets: See `PackReport`.
    """

    release: Release
    updates: tuple[Update, ...]
    offsets: dict[str, int]


def pack_first(src: str, dst: str, settings: PackSettings) -> PackReport:
    """Pack a model as a package of one version; see `p2u.pack`."""
    packer = Packer(src, settings)
    # Of the file, not of its folder: a package may stand next to the file it is made of.
    return packer.run(check_target(dst, src, replace=settings.replace))


class Packer:
    """One run; see `p2u.pack`."""

    def __init__(self, src: str, settings: PackSettings) -> None:
        self._src = src
        self._settings = settings
        self._labels = check_levels(settings.levels)
        scanned = scan_model(src)
        check_paths([file.path for file in scanned.files])
        self.left_out = scanned.left_out
        #: A package is as private as the most private of its model's files.
        self.bits = common_bits(scanned.locate(file.path) for file in scanned.files)
        self.notes = _notes(scanned)
        if not settings.force:
            check_exact(src, scanned)
        self.model = StoredModel(scanned, make_layout(scanned, settings.recipe.kept))
        self.model.remember()
        self._calibration = None
        if settings.calibration is not None:
            self._calibration = CalibrationPlan(
                settings.calibration, settings.thrift, self.model.layout
            )
        self._allocation = Allocation(
            self.model.layout, settings.recipe, [file.path for file in scanned.files]
        )
        jobs = cut(self.model, self._allocation.grades, settings.chunk_elements)
        self._jobs = self._allocation.ordered(self.model.layout, jobs)
        self.total = self.model.size
        largest = max((t.length for t in self.model.tensors), default=0)
        self.budget = 2 * largest + BUDGET

    def run(self, target: Path) -> PackReport:
        """Pack a first version; the package appears when it is complete."""
        with ExitStack() as stack:
            if (target / MANIFEST_KEY).exists():
                stack.enter_context(package_lock(target))
            place = stack.enter_context(
                NewPackage(target, replace=self._settings.replace, bits=self.bits)
            )
            built = self.build(place.path, self._settings.version or FIRST_VERSION)
            manifest = with_costs(Manifest(self.name, (built.release,), built.updates, generator()))
            data = manifest.to_bytes()
            if len(data) > MAX_MANIFEST or parse_manifest(data) != manifest:
                raise UsageError("the model has too many files for one package", file=self._src)
            write_new(place.path / MANIFEST_KEY, data)
            place.publish()
            self.report_progress("publish", self.total)
        return self.report(manifest, built.release.version, built.offsets)

    def report(
        self,
        manifest: Manifest,
        version: str,
        offsets: dict[str, int],
        notes: Sequence[str] = (),
        *,
        unchanged: bool = False,
    ) -> PackReport:
        """The report on a version of a package that has this model; see `PackReport`."""
        made = make_report(manifest, version, self.total, offsets, (*self.notes, *notes))
        return replace(made, left_out=self.left_out, unchanged=unchanged)

    def build(self, folder: Path, version: str, prefix: str = "") -> Built:
        """Write the layout and all levels, and verify them.

        Args:
            folder: Where the files are written; nothing else is in it.
            version: What the release is called.
            prefix: What the folder will be called in the package, with a slash.
        """
        levels = self._sampled()
        levels, (blobs, hashes) = self._fitted(folder, levels)
        written = [writer.blobs for writer in blobs.writers]
        chunks = LevelChunks(folder, self.model.layout, blobs.made, written)
        digests = hashes.finish(
            chunks.decode,
            chunks.cost,
            self._settings.jobs,
            self.budget,
            lambda done: self.report_progress("verify", done),
        )
        self.model.check_unchanged()
        self.report_progress("verify", self.total)
        self.report_progress("publish", 0)
        release, updates = self._release(folder, version, prefix, blobs, digests)
        return Built(release, updates, self._offsets(levels))

    def report_progress(self, phase: str, done: int) -> None:
        """Report progress."""
        if self._settings.progress:
            self._settings.progress(PackProgress(phase, done, self.total))

    def _sampled(self) -> Levels:
        self.report_progress("measure", 0)
        levels = self._allocation.sampled(self.model, self._jobs, self._settings.jobs)
        self.report_progress("measure", self.total)
        return levels

    def _fitted(self, folder: Path, levels: Levels) -> tuple[Levels, _Written]:
        """Write all blobs, the base's within the budget if there is one."""
        recipe = self._settings.recipe
        budget = recipe.budget
        if recipe.ratio is not None:
            budget = int(recipe.ratio * self.total)
        if budget is None:
            return levels, self._encode(folder, levels.offsets())
        layout_size = len(self.model.layout.to_bytes())
        fitter = Fitter(
            levels, self._jobs, self._encoder, self._settings.jobs, self.budget, layout_size
        )
        more = 0
        while True:
            levels = fitter.fit(budget, more)
            written = self._encode(folder, levels.offsets())
            blobs, _ = written
            index = len(encode_index([m.chunks[0] for m in blobs.made]))
            size = layout_size + index + sum(blob.size for blob in blobs.writers[0].blobs)
            if size <= budget:
                return levels, written
            # Only a whole run shows these: checksums, fed-back codes, chunks that went opaque.
            more = max(more + 1, size - fitter.size(levels.free))
            _clear(folder)

    def _encoder(self, offsets: list[int], plan: CalibrationPlan | None = None) -> Encoder:
        """One for the package; without a calibration, one to measure with."""
        return Encoder(self.model, halvings(self._labels), offsets, plan)

    def _encode(self, folder: Path, offsets: list[int]) -> _Written:
        """Write all blobs, and read them back."""
        checks = Checks(self.model.files, self.model.layout)
        encoder = self._encoder(offsets, self._calibration)
        threads, states = self._settings.jobs, len(self._labels)
        chunks = ChunkPass(self.model, self._jobs, encoder, checks, states, threads)
        blobs = LevelBlobs(folder, self._labels, self._settings.blob_size)
        done = 0
        results = in_order(chunks.order(), chunks.run, chunks.cost, threads, self.budget)
        try:
            for number, coded in results:
                job = self._jobs[number]
                checks.add(job, coded.sums)
                blobs.add(number, job, coded)
                done += job.size
                self.report_progress("encode", done)
            for job, contents in checks.jobs(self.model, states):
                number = len(blobs.made)
                coded = encode_pieces(contents)
                digests = tuple(plain.sha256_each(coded.payloads))
                blobs.add(number, job, replace(coded, digests=digests))
                spans = chunk_spans(job, self.model.layout)
                chunks.hashes.add(number, spans, tuple(memoryview(bytearray(c)) for c in contents))
        finally:
            results.close()
            blobs.close()
        return blobs, chunks.hashes

    def _release(
        self,
        folder: Path,
        version: str,
        prefix: str,
        blobs: LevelBlobs,
        digests: list[tuple[str, ...]],
    ) -> tuple[Release, tuple[Update, ...]]:
        """Write layout and indices, and describe all."""
        layout = write_object(folder, prefix, LAYOUT_KEY, self.model.layout.to_bytes())
        files = tuple(
            FileEntry(file.path, file.size, digest)
            for file, digest in zip(self.model.files, digests, strict=True)
        )
        states: list[State] = []
        updates: list[Update] = []
        for number, (label, writer) in enumerate(zip(self._labels, blobs.writers, strict=True)):
            state = State(
                version,
                label,
                state_digest((f.path, f.size, f.digest(number)) for f in files),
                None,
                blobs.sums.snr_db(number),
                blobs.sums.average(number),
            )
            chunks = [m.chunks[number] for m in blobs.made if number < len(m.chunks)]
            index = write_object(folder, prefix, f"{label}.index", encode_index(chunks))
            if index.size > MAX_INDEX:
                raise UsageError("the model is too large for one package", file=self._src)
            source = states[-1].id if states else None
            states.append(state)
            updates.append(make_update(source, state.id, index, writer.blobs, prefix, len(chunks)))
        return Release(version, files, layout, tuple(states)), tuple(updates)

    @property
    def name(self) -> str:
        """The model's name."""
        if self._settings.name is not None:
            return self._settings.name
        path = Path(os.path.realpath(self._src))
        return path.stem if path.is_file() else path.name

    def _offsets(self, levels: Levels) -> dict[str, int]:
        return {
            t.name: offset
            for t, grade, offset in zip(
                self.model.tensors, self._allocation.grades, levels.offsets(), strict=True
            )
            if grade.how is Treatment.PROGRESSIVE
        }


def make_update(
    source: str | None, target: str, index: Object, blobs: Sequence[Blob], prefix: str, chunks: int
) -> Update:
    """An update whose files will be below a prefix."""
    placed = tuple(Blob(prefix + blob.key, blob.size) for blob in blobs)
    return Update(source, target, index, placed, sum(blob.size for blob in blobs), chunks)


def write_object(folder: Path, prefix: str, key: str, data: bytes) -> Object:
    """Write a file that has a digest, into a folder that will be called ``prefix``."""
    write_new(folder / key, data)
    return Object(prefix + key, len(data), hashlib.sha256(data).hexdigest())


def _clear(folder: Path) -> None:
    """Remove what was written so far, but not the folder's lock."""
    with disk_errors(folder, "write", UNPUBLISHED):
        for path in folder.iterdir():
            if not path.name.startswith(RESERVED):
                path.unlink()


def _notes(scanned: ScannedModel) -> tuple[str, ...]:
    """Sentences for the report on what a package keeps in another form than the folder."""
    if not scanned.links:
        return scanned.notes
    shown = ", ".join(scanned.links[:3]) + (", ..." if len(scanned.links) > 3 else "")
    links = f"{len(scanned.links)} links are packed as what they lead to: {shown}"
    return (*scanned.notes, links)


def generator() -> str:
    """The generator that the manifest names."""
    try:
        return f"p2u-models {metadata.version('p2u-models')}"
    except metadata.PackageNotFoundError:  # run from the source tree
        return "p2u-models"
