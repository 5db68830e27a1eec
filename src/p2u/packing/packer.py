"""Pack a model into the first version of a package, or into a version's own base."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

from p2u.disk.access import common_bits
from p2u.errors import IntegrityError, UsageError
from p2u.formats import ScannedModel
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
from p2u.package.paths import MANIFEST_KEY, check_paths
from p2u.packing.allocation.allocate import Allocation, Fitter, Levels
from p2u.packing.chunking.cut import cut, make_layout
from p2u.packing.chunking.source import find_model
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.engines.choice import open_engine
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import FolderPlace, Place
from p2u.packing.levels.encode import EncoderSpec
from p2u.packing.package_folder.blobs import write_new
from p2u.packing.package_folder.level_blobs import LevelBlobs
from p2u.packing.package_folder.new_package import NewPackage, check_target
from p2u.packing.package_folder.write_levels import LevelTarget, LevelWriter
from p2u.packing.pulled import check_exact
from p2u.packing.recipe import check_levels, halvings
from p2u.packing.report import PackProgress, PackReport, make_report
from p2u.packing.rounding.plan import CalibrationPlan
from p2u.packing.settings import PackSettings
from p2u.stores.package_lock import package_lock
from p2u.stores.schemes import scheme_of

#: Memory for chunks under way, in bytes, in addition to twice the largest tensor.
BUDGET = 96 << 20
FIRST_VERSION = "v1"


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
    with open_engine(settings) as engine:
        packer = Packer(src, settings, engine)
        # Of the file, not of its folder: a package may stand next to the file it is made of.
        return packer.run(check_target(dst, src, replace=settings.replace))


class Packer:
    """One run; see `p2u.pack`."""

    def __init__(self, src: str, settings: PackSettings, engine: Engine) -> None:
        self._src = src
        self._settings = settings
        self.engine = engine
        self._labels = check_levels(settings.levels)
        source = find_model(src)
        scanned = source.scanned
        check_paths([file.path for file in scanned.files])
        self.left_out = scanned.left_out
        #: A package is as private as the most private of its model's files.
        self.bits = common_bits(scanned.locate(file.path) for file in scanned.files)
        self.notes = _notes(scanned)
        if not settings.force and source.url is None:
            check_exact(src, scanned)
        self.model = StoredModel(scanned, make_layout(scanned, settings.recipe.kept), source)
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
            package = stack.enter_context(
                NewPackage(target, replace=self._settings.replace, bits=self.bits)
            )
            manifest, offsets = self.first(package.path, FolderPlace(package.path))
            write_new(package.path / MANIFEST_KEY, manifest.to_bytes())
            package.publish()
            self.report_progress("publish", self.total)
        return self.report(manifest, manifest.latest.version, offsets)

    def first(self, folder: Path, place: Place) -> tuple[Manifest, dict[str, int]]:
        """Write all files of a package of one version but the manifest.

        Args:
            folder: See `build`.
            place: See `build`.

        Returns:
            The manifest, and the offsets of `PackReport`.
        """
        built = self.build(folder, place, self._settings.version or FIRST_VERSION)
        manifest = with_costs(Manifest(self.name, (built.release,), built.updates, generator()))
        data = manifest.to_bytes()
        if len(data) > MAX_MANIFEST or parse_manifest(data) != manifest:
            raise UsageError("the model has too many files for one package", file=self._src)
        return manifest, built.offsets

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

    def build(self, folder: Path, place: Place, version: str, prefix: str = "") -> Built:
        """Write the layout and all levels, and verify them.

        Args:
            folder: A folder on this machine for layout and indices; nothing else is in it.
            place: Where the blobs are written: the same folder, or a store.
            version: What the release is called.
            prefix: What the folder will be called in the package, with a slash.
        """
        levels, writer = self._fitted(folder, place, self._sampled())
        try:
            digests = writer.digests()
        except IntegrityError:
            self.model.check_unchanged()  # the likely cause, with an error of its own
            raise
        self.model.check_unchanged()
        self.report_progress("verify", self.total)
        self.report_progress("publish", 0)
        release, updates = self._release(folder, version, prefix, writer.blobs, digests)
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

    def _fitted(self, folder: Path, place: Place, levels: Levels) -> tuple[Levels, LevelWriter]:
        """Write all blobs, the base's within the budget if there is one."""
        recipe = self._settings.recipe
        budget = recipe.budget
        if recipe.ratio is not None:
            budget = int(recipe.ratio * self.total)
        if budget is None:
            return levels, self._write(folder, place, levels)
        layout_size = len(self.model.layout.to_bytes())
        fitter = Fitter(levels, self._jobs, self._spec, self.engine, self.budget, layout_size)
        more = 0
        while True:
            levels = fitter.fit(budget, more)
            writer = self._write(folder, place, levels)
            blobs = writer.blobs
            index = len(encode_index([m.chunks[0] for m in blobs.made]))
            size = layout_size + index + sum(blob.size for blob in blobs.writers[0].blobs)
            if size <= budget:
                return levels, writer
            # Only a whole run shows these: checksums, fed-back codes, chunks that went opaque.
            more = max(more + 1, size - fitter.size(levels.free))
            place.remove([blob.key for update in blobs.writers for blob in update.blobs])

    def _spec(self, offsets: list[int], plan: CalibrationPlan | None = None) -> EncoderSpec:
        """An encoder for the package; without a calibration, one to measure with."""
        return EncoderSpec(self.model, halvings(self._labels), tuple(offsets), plan)

    def _write(self, folder: Path, place: Place, levels: Levels) -> LevelWriter:
        """Write all blobs, and read them back."""
        target = LevelTarget(
            self.engine,
            place,
            folder,
            self._labels,
            self._settings.blob_size,
            self.budget,
            self.report_progress,
        )
        spec = self._spec(levels.offsets(), self._calibration)
        writer = LevelWriter(spec, self._jobs, target)
        writer.write()
        return writer

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
        if scheme_of(self._src) is not None:
            return unquote(self._src.split("?")[0].rstrip("/").rpartition("/")[2])
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
