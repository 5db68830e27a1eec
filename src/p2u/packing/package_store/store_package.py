"""Change a package in a store: stage new files on this machine, upload them, the manifest last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.scratch import HeldFolder, remove_abandoned
from p2u.errors import UsageError
from p2u.package.keys import keys, sizes
from p2u.package.manifest import Manifest
from p2u.package.paths import MANIFEST_KEY, RESERVED, check_path
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import FolderPlace, Place, StorePlace
from p2u.packing.package_folder.open_package import PARENTS, STAGE
from p2u.packing.report import PackProgress
from p2u.replication.publication import Publication
from p2u.stores import open_writable
from p2u.stores.retrying import Retrying
from p2u.stores.upload import JOBS

#: Name of the working folders, in the folder for temporary files.
WORK = "p2u-publish"


class StorePackage:
    """A package at a URL while we publish to it; a context manager.

    The files of the new version, and those of the package that it is compared with, are on this
    machine meanwhile, in the folder for temporary files (``TMPDIR``).

    Args:
        url: The package.
        progress: Called as objects are uploaded, in the phase ``upload``; what it raises ends it.

    Attributes:
        folder: A folder with those files of the package that were brought.
        stage: An empty folder for new files.
        parents: A free path, for the folder with decoded parents.

    Raises:
        UnsupportedError: Packages at such a URL can only be read.
        StoreError: It cannot be reached.
        FormatError: Its manifest cannot be read.
        DiskError: There is no space for the files.
    """

    def __init__(self, url: str, progress: Callable[[PackProgress], None] | None = None) -> None:
        self.url = url
        self._progress = progress
        self._stack = ExitStack()

    def __enter__(self) -> StorePackage:
        with ExitStack() as stack:
            store = stack.enter_context(open_writable(self.url))
            self.url = store.url
            self._store = store
            self._publication = Publication(store)
            place = Path(tempfile.gettempdir()) / WORK
            with disk_errors(place, "write", UNPUBLISHED):
                remove_abandoned(place)
                held = stack.enter_context(HeldFolder(place))
                self.folder = held.path / "package"
                self.stage = self.folder / STAGE
                self.parents = self.folder / PARENTS
                self.stage.mkdir(parents=True)
            self._publication.clean()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def exists(self) -> bool:
        """Whether there is a package already."""
        return self._publication.manifest is not None

    @property
    def manifest(self) -> Manifest:
        """The package as it was read.

        Raises:
            UsageError: There is none.
        """
        if self._publication.manifest is None:
            raise UsageError(
                f"is not a package: it has no {MANIFEST_KEY}",
                file=self.url,
                hint="Publish a first version",
            )
        return self._publication.manifest

    def folder_for(self, name: str) -> str:
        """A folder name for staged files that no file of the package uses."""
        taken = {key.partition("/")[0].casefold() for key in keys(self.manifest)}
        number = 1
        while (found := name if number == 1 else f"{name}.{number}").casefold() in taken:
            number += 1
        return found

    def place(self, prefix: str, engine: Engine) -> Place:
        """Where an engine writes blobs: at once in the store, or first in the folder `stage`.

        The objects of a deferred store become visible with the manifest of the same process only.
        """
        if engine.shares_memory or self._store.deferred:
            return FolderPlace(self.stage)
        return StorePlace(self.url, prefix, self._publication.announce)

    def bring(self, wanted: Iterable[str]) -> None:
        """Have files of the package in `folder`; whoever reads them checks their digests.

        Raises:
            StoreError, DiskError: They cannot be read or written.
        """
        known = sizes(self.manifest)
        store = Retrying(self._store, self._publication.retry)

        def fetch(key: str) -> None:
            path = self.folder.joinpath(*check_path(key, "key"))
            with disk_errors(path, "write", UNPUBLISHED):
                if path.exists():
                    return
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.part")
                with open(part, "wb") as file, closing(store.stream(key, 0, known[key])) as pieces:
                    file.writelines(pieces)
                part.replace(path)

        with ThreadPoolExecutor(JOBS) as pool:
            for _ in pool.map(fetch, dict.fromkeys(wanted)):
                pass

    def commit(self, manifest: Manifest, folder: str | None, grace: float = 0.0) -> None:
        """Publish: upload the staged files, then replace the manifest; see `Publication.commit`."""
        self._commit(manifest, {} if folder is None else _files(self.stage, f"{folder}/"), grace)

    def commit_first(self, manifest: Manifest) -> None:
        """Publish a first version, whose files are not in a folder of the package.

        Raises:
            ConflictError: There is a package now.
        """
        self._commit(manifest, _files(self.stage, ""))

    def _commit(self, manifest: Manifest, contents: dict[str, Path], grace: float = 0.0) -> None:
        report = self._reporter(contents)
        self._publication.commit(manifest, contents, grace=grace, report=report)

    def _reporter(self, contents: Mapping[str, Path]) -> Callable[[int], None] | None:
        """Counts the bytes that are uploaded."""
        progress = self._progress
        if progress is None:
            return None
        with disk_errors(self.folder, "read"):
            total = sum(path.stat().st_size for path in contents.values())
        done = 0

        def report(size: int) -> None:
            nonlocal done
            done += size
            progress(PackProgress("upload", done, total))

        return report

    def size_of(self, gone: Iterable[str]) -> int:
        """Bytes of some files of the package."""
        known = sizes(self.manifest)
        return sum(known.get(key, 0) for key in gone)


def _files(folder: Path, prefix: str) -> dict[str, Path]:
    """The files below a folder but the manifest, by key."""
    found = {}
    with disk_errors(folder, "read"):
        for path in sorted(folder.rglob("*")):
            key = path.relative_to(folder).as_posix()
            if path.is_file() and key != MANIFEST_KEY and not key.startswith(RESERVED):
                found[prefix + key] = path
    return found
