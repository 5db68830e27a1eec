"""Add a version to a package: an update from its parent, and optionally its own base."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from p2u.errors import IntegrityError, UsageError
from p2u.package.graph import find_path
from p2u.package.layout import Tensor
from p2u.package.manifest import (
    LAYOUT_KEY,
    FileEntry,
    Manifest,
    Object,
    Release,
    State,
    Update,
    state_digest,
    with_costs,
)
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.engines.file_hashes import file_hashes
from p2u.packing.package_folder.destination import Destination
from p2u.packing.packer import Packer, write_object
from p2u.packing.recipe import EXACT
from p2u.packing.report import PackReport
from p2u.packing.settings import PackSettings
from p2u.packing.versions.materialise import read_layout
from p2u.packing.versions.pairing import Matcher
from p2u.packing.versions.parent import Parent, Parents
from p2u.packing.versions.version_update import UpdateSettings, VersionUpdate
from p2u.types import BLOCKS, PROGRESSIVE

#: Of another version of a model, at least this part of the bytes has a counterpart in the parent.
LEAST_RELATED = 0.1


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """The request for a version.

    Attributes:
        version: Its name; None for the next number, or the version that has these files already.
        also_base: Whether it gets a base and refinements of its own.
        adopt: Its parent is a copy of it that somebody else made.
        fresh: It is a new version, even if the package has one with these files.
        fold: Updates from earlier versions are added where they have at most this part of the
            bytes of the chain; None for none.
    """

    version: str | None = None
    also_base: bool = False
    adopt: bool = False
    fresh: bool = False
    fold: float | None = None


class VersionAdder:
    """Adds one version, or an update to one, to a package.

    Args:
        destination: The package.
        packer: The model.
        settings: How to pack.
        stack: Keeps temporary folders.
    """

    def __init__(
        self, destination: Destination, packer: Packer, settings: PackSettings, stack: ExitStack
    ) -> None:
        self._destination = destination
        self._packer = packer
        self._force = settings.force
        self.parents = Parents(destination, packer.engine, settings.jobs, stack)
        self._settings = UpdateSettings(
            packer.engine,
            packer.budget,
            settings.blob_size,
            settings.chunk_elements,
            packer.report_progress,
        )
        self._folder = ""
        self._offsets: dict[str, int] = {}
        self._notes: list[str] = []

    def add(self, parent: Parent, request: VersionRequest) -> PackReport:
        """Make the version and the update that leads to it, and publish them.

        Raises:
            UsageError: Its name is not valid or taken, or nothing in a file to adopt is like it.
            ConflictError: Somebody else published meanwhile.
            DiskError, IntegrityError: A file cannot be read or written, or changed meanwhile.
        """
        manifest = self._destination.manifest
        if request.adopt:
            self._check_alike(parent)
        elif parent.known and self.is_same(parent.state, request):
            return self.unchanged(parent.state)
        elif not self._force:
            self._check_related(parent)
        known = None if request.fresh else self._same(request, parent)
        if known is None:
            release, updates = self._begin(parent, request)
        else:
            release, updates = known, []
            name = f"{known.version}-from-{parent.state.version}"
            self._folder = self._destination.folder_for(name)
        foreign = () if parent.known else (self._named(parent),)
        model = self._packer.model
        if known is not None:
            self._destination.bring([known.layout.key])
            model = model.with_layout(read_layout(self._destination.folder, known))
        update, release = self._lead(parent, release, model)
        self._packer.report_progress("publish", 0)
        releases = [r for r in manifest.releases if r is not known]
        at = len(releases) if known is None else manifest.releases.index(known)
        releases.insert(at, release)
        # Foreign ones first: an update may lead from them to any other.
        manifest = replace(
            manifest,
            releases=(*foreign, *releases),
            updates=(*manifest.updates, *updates, update),
        )
        manifest = self._folded(manifest, release, request)
        manifest = with_costs(manifest)
        size, alone = manifest.cost(update), manifest.state(update.target).bytes
        if alone is not None and size > alone:
            self._notes.append(
                f"the parent is useless: the update from {update.source} has {size:,} bytes, "
                f"all from nothing {alone:,}"
            )
        self._destination.commit(manifest, self._folder)
        self._packer.report_progress("publish", self._packer.total)
        return self._packer.report(manifest, release.version, self._offsets, self._notes)

    def is_same(self, state: State, request: VersionRequest) -> bool:
        """Whether a state has the model's files and all that is asked for: nothing is to do."""
        release = self._destination.manifest.release(state)
        if self._force or (request.also_base and not self._based(release)):
            return False
        number, files = release.number(state), self._packer.model.files
        if [(f.path, f.size) for f in files] != [(f.path, f.size) for f in release.files]:
            return False
        # The first file that differs decides.
        with closing(file_hashes(self._packer.model, self._packer.engine)) as digests:
            known = (file.digest(number) for file in release.files)
            return all(found == wanted for found, wanted in zip(digests, known, strict=True))

    def unchanged(self, state: State) -> PackReport:
        """The report that nothing was published, because a state has the same files."""
        manifest = self._destination.manifest
        return self._packer.report(manifest, state.version, {}, unchanged=True)

    def _check_related(self, parent: Parent) -> None:
        """Raise UsageError if hardly anything of the model comes from its parent."""
        model = self._packer.model
        pairs = Matcher(model, parent.model).tensors()
        total = found = count = 0
        for t, pair in zip(model.tensors, pairs, strict=True):
            total += t.length
            if pair is not None and _is_counterpart(t, parent.model.tensors[pair]):
                found += t.length
                count += 1
        if found < LEAST_RELATED * total:
            raise UsageError(
                f"is another model than {parent.state.id}: {count} of {len(pairs)} tensors have a "
                "counterpart there",
                file=self._packer.name,
                hint="Pack it into a package of its own; --force adds it all the same",
            )

    def _begin(self, parent: Parent, request: VersionRequest) -> tuple[Release, list[Update]]:
        """A new release: with levels of its own, or without anything yet."""
        version = self._name(request.version, parent)
        self._folder = self._destination.folder_for(version)
        stage = self._destination.stage
        if request.also_base:
            place = self._destination.place(self._prefix, self._packer.engine)
            built = self._packer.build(stage, place, version, self._prefix)
            self._offsets = built.offsets
            return built.release, list(built.updates)
        unknown = ("0" * 64,)  # until it was verified
        files = tuple(FileEntry(f.path, f.size, unknown) for f in self._packer.model.files)
        data = self._packer.model.layout.to_bytes()
        layout = self._object(data, LAYOUT_KEY)
        state = State(version, EXACT, "", None, None, 0.0)
        return Release(version, files, layout, (state,)), []

    def _check_alike(self, parent: Parent) -> None:
        """Raise UsageError unless some weights of the model can be told from the parent's."""
        model = self._packer.model
        pairs = Matcher(model, parent.model).tensors()
        for t, pair in zip(model.tensors, pairs, strict=True):
            if pair is not None and t.dtype in PROGRESSIVE:
                return
        held = sorted({t.dtype for t in parent.model.tensors})
        raise UsageError(
            f"no tensor of it ({', '.join(held[:8])}) is like one of the model",
            file=parent.model.files[0].path,
            hint=f"Adopt a file of the same model, with floats or {', '.join(BLOCKS)}",
        )

    @property
    def _prefix(self) -> str:
        return f"{self._folder}/"

    def _object(self, data: bytes, key: str) -> Object:
        """A layout: one that the package has already, or a new file."""
        digest = hashlib.sha256(data).hexdigest()
        for release in self._destination.manifest.releases:
            if (release.layout.sha256, release.layout.size) == (digest, len(data)):
                return release.layout
        return write_object(self._destination.stage, self._prefix, key, data)

    def _named(self, parent: Parent) -> Release:
        """A foreign release as the manifest lists it."""
        layout = self._object(parent.model.layout.to_bytes(), f"parent-{LAYOUT_KEY}")
        return replace(parent.release, layout=layout)

    def _lead(self, parent: Parent, release: Release, model: StoredModel) -> tuple[Update, Release]:
        """The update from the parent, and the release with what is known of it afterwards."""
        target = release.states[-1]
        if any(
            (u.source, u.target) == (parent.state.id, target.id)
            for u in self._destination.manifest.updates
        ):
            raise UsageError(
                f"there is an update from {parent.state.id} to {target.id} already",
                file=str(self._destination.folder),
            )
        work = self._update(parent, model)
        update = work.encode(parent.state.id, target.id)
        digests = work.verify()
        self._notes += work.notes()
        if not parent.known:
            self._notes.append(
                f"the parent is not a state of this package: it is listed as {parent.state.id}, "
                "and only clients with exactly these files can use the update"
            )
        files = tuple(
            replace(file, sha256=found) for file, found in zip(release.files, digests, strict=True)
        )
        digest = state_digest((f.path, f.size, f.digest(0)) for f in files)
        if target.digest:
            if target.digest != digest:
                raise IntegrityError("the model was changed while it was packed: pack again")
            return update, release
        weights = sum(t.elems for t in model.tensors if t.dtype in PROGRESSIVE)
        bits = round(parent.state.bits + work.bits() / max(1, weights), 3)
        state = replace(target, digest=digest, bits=bits)
        return update, replace(release, files=files, states=(state,))

    def _update(self, parent: Parent, model: StoredModel) -> VersionUpdate:
        label = f"from-{parent.state.version}-{parent.state.label}"
        folder, prefix = self._destination.stage, self._prefix
        place = self._destination.place(prefix, self._packer.engine)
        return VersionUpdate(parent.model, model, folder, place, prefix, label, self._settings)

    def _folded(self, manifest: Manifest, release: Release, request: VersionRequest) -> Manifest:
        """Add updates from versions two, four, eight ... back, where they are worth it.

        Each version has as many as its number has factors of two: so few are made, and yet any
        chain of updates has a short route.
        """
        delivered = [r for r in manifest.releases if not r.foreign]
        number = len(delivered) - 1
        distance = 2
        while request.fold is not None and distance <= number and number % distance == 0:
            source = delivered[number - distance].states[-1]
            distance *= 2
            if source.bytes is None:
                continue  # only clients with a foreign file can reach it
            parent = self.parents.decoded(source)
            work = self._update(parent, self._packer.model)
            update = work.encode(source.id, release.states[-1].id)
            more = replace(manifest, updates=(*manifest.updates, update))
            route = find_path(manifest.updates, source.id, release.states[-1].id)
            chain = sum(manifest.cost(u) for u in route)
            if more.cost(update) <= request.fold * chain:
                work.verify()
                manifest = more
            else:
                work.remove()
        return manifest

    def _same(self, request: VersionRequest, parent: Parent) -> Release | None:
        """The version that has exactly these files and comes after the parent, if there is one."""
        sizes = [(file.path, file.size) for file in self._packer.model.files]
        digest = ""
        for release in reversed(self._destination.manifest.releases):
            if release.version == parent.state.version and parent.known:
                return None
            if (
                release.foreign
                or (request.also_base and not self._based(release))
                or request.version not in (None, release.version)
                or [(f.path, f.size) for f in release.files] != sizes
            ):
                continue
            if not digest:
                found = list(file_hashes(self._packer.model, self._packer.engine))
                digest = state_digest(
                    (path, size, sha) for (path, size), sha in zip(sizes, found, strict=True)
                )
            if release.states[-1].digest == digest:
                return release
        return None

    def _based(self, release: Release) -> bool:
        """Whether a version has a base of its own."""
        states = {state.id for state in release.states}
        return any(
            u.source is None and u.target in states for u in self._destination.manifest.updates
        )

    def _name(self, wanted: str | None, parent: Parent) -> str:
        """The version's name.

        Raises:
            UsageError: It is taken.
        """
        taken = {release.version.casefold() for release in self._destination.manifest.releases}
        taken.add(parent.state.version.casefold())
        if wanted is None:
            numbers = [int(t[1:]) for t in taken if re.fullmatch(r"v[0-9]{1,15}", t)]
            wanted = f"v{max(numbers, default=0) + 1}"
        if wanted.casefold() in taken:
            raise UsageError(
                f"the package has a version {wanted} already, with other files",
                file=str(self._destination.folder),
                hint="Choose another name with --version, or leave it out",
            )
        return wanted


def _is_counterpart(new: Tensor, old: Tensor) -> bool:
    """Whether two tensors can be one: as many elements, or more or fewer rows (of a vocabulary)."""
    same_rows = len(new.shape) > 1 and new.shape[1:] == old.shape[1:]
    return new.elems == old.elems or same_rows
