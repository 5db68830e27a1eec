"""Change a package: lock it, stage new files, replace the manifest last.

At any moment the folder is a valid package: the one before, or the one after. A killed
publisher leaves the staged folder, or files that it listed beforehand in a small file; the next one
removes these, and nothing else: files of strangers stay.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path

from p2u.disk.access import common_bits, restrict_all
from p2u.disk.durable import replace_file, sync_folder
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.files import read_small, remove_below, remove_tree
from p2u.disk.scratch import ScratchFolder, remove_abandoned
from p2u.errors import ConflictError, FormatError
from p2u.package.keys import checked_bytes, keys
from p2u.package.manifest import MAX_MANIFEST, Manifest
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY, check_path
from p2u.package.strict_json import parse_object
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import FolderPlace, Place
from p2u.stores.package_lock import package_lock

STAGE, PARENTS, UNUSED = ".p2u-stage", ".p2u-parents", ".p2u-unused.json"
#: Of the list of unused files, bytes and values; a longer one is none of ours.
_LIMIT, _NODES = 256 << 20, 4 << 20


def read_manifest(folder: Path) -> bytes:
    """The manifest of a package's folder, not parsed; cut off if it is longer than allowed.

    Raises:
        DiskError: It cannot be read. Its cause is a FileNotFoundError if there is none.
    """
    path = folder / MANIFEST_KEY
    with disk_errors(path, "read"), open(path, "rb") as stream:
        return stream.read(MAX_MANIFEST + 1)


def read_unused(folder: Path) -> dict[str, float]:
    """Files and folders of ours that are not needed unless the manifest lists them.

    Returns:
        Each one's path in the package, and from when on it can be removed (seconds since 1970).
    """
    path = folder / UNUSED
    try:
        data = read_small(path, _LIMIT)
        tree = parse_object(data or b"{}", file=str(path), nodes=_NODES)
    except (OSError, FormatError):
        return {}
    found: dict[str, float] = {}
    for name, due in tree.items():
        if isinstance(due, int | float):
            check_path(name)  # it says what to remove
            found[name] = float(due)
    return found


class OpenPackage:
    """The folder of a package while we publish to it; a context manager.

    Args:
        folder: The package.

    Attributes:
        manifest: As it was when the lock was taken.
        stage: An empty folder for new files, in the package's folder.
        parents: A free path, for the folder with decoded parents.

    Raises:
        BusyError: Somebody else publishes to it.
        FormatError, UnsupportedError: It is no package, or its manifest cannot be read.
        DiskError: No permission, no space.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stage = folder / STAGE
        self.parents = folder / PARENTS
        self._part = folder / f"{STAGE}.json"  # the next manifest
        self._stack = ExitStack()

    def __enter__(self) -> OpenPackage:
        with ExitStack() as stack:
            if not (self.folder / MANIFEST_KEY).is_file():
                raise FormatError(
                    f"is not a package: it has no {MANIFEST_KEY}",
                    file=str(self.folder),
                    hint="`p2u publish` makes one of a model",
                )
            stack.enter_context(package_lock(self.folder))
            self._data = read_manifest(self.folder)
            self.manifest = parse_manifest(self._data)
            self.clean()
            remove_abandoned(self.folder)
            with disk_errors(self.stage, "write", UNPUBLISHED):
                stack.enter_context(ScratchFolder(self.stage))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder_for(self, name: str) -> str:
        """A folder name for staged files that no file of the package uses."""
        taken = {key.partition("/")[0].casefold() for key in keys(self.manifest)}
        taken |= {path.name.casefold() for path in self.folder.iterdir()}
        number = 1
        while (found := name if number == 1 else f"{name}.{number}").casefold() in taken:
            number += 1
        return found

    def place(self, prefix: str, engine: Engine) -> Place:
        """Where an engine writes blobs."""
        return FolderPlace(self.stage)

    def bring(self, wanted: Iterable[str]) -> None:
        """Does nothing: all files are there."""

    def size_of(self, gone: Iterable[str]) -> int:
        """Bytes of some files of the package."""
        paths = [self.folder / key for key in gone]
        return sum(path.lstat().st_size for path in paths if path.is_file())

    def commit(self, manifest: Manifest, folder: str | None, grace: float = 0.0) -> None:
        """Publish: move the staged files to their folder, then replace the manifest.

        Args:
            manifest: The new one.
            folder: What the staged folder is to be called; None if nothing was staged.
            grace: Seconds for which files that it no longer lists stay, for those who read them.

        Raises:
            ConflictError: The manifest is no longer the one that was read.
            UsageError: The package would have too many files.
            DiskError: The package is as it was.
        """
        data = checked_bytes(manifest, str(self.folder))
        if read_manifest(self.folder) != self._data:
            raise ConflictError(
                f"its {MANIFEST_KEY} was replaced while this version was made",
                file=str(self.folder),
                hint="Another publisher uses the package without a lock; publish again",
            )
        gone = keys(self.manifest) - keys(manifest)
        due = time.time() + grace
        unused = read_unused(self.folder) | dict.fromkeys(sorted(gone), due)
        if folder is not None:
            unused[folder] = 0.0
        self._note(unused)
        with disk_errors(self.folder, "write", UNPUBLISHED):
            if folder is not None:
                # Whoever may read the package may read its new version.
                restrict_all(self.stage, common_bits([self.folder / MANIFEST_KEY]))
                sync_folder(self.stage)
                self.stage.rename(self.folder / folder)
                sync_folder(self.folder)
            replace_file(self.folder / MANIFEST_KEY, data, self._part)
        self.manifest, self._data = manifest, data
        self.clean()

    def clean(self) -> int:
        """Remove what is not needed any more and due; returns how many bytes that were."""
        listed = keys(self.manifest)
        used = listed | {key[:at] for key in listed for at, mark in enumerate(key) if mark == "/"}
        now = time.time()
        left: dict[str, float] = {}
        freed = 0
        with disk_errors(self.folder, "write", UNPUBLISHED):
            self._part.unlink(missing_ok=True)
            for folder in (self.stage, self.parents):
                with contextlib.suppress(OSError):
                    remove_tree(folder)
            unused = read_unused(self.folder)
            for name, due in unused.items():
                if name not in used and due > now:
                    left[name] = due
                elif name not in used:
                    # A file, or a folder that was moved here but never published.
                    freed += remove_below(self.folder, name)
            self._drop_empty(unused)
        if unused:
            self._note(left)
        return freed

    def _drop_empty(self, names: Collection[str]) -> None:
        for parent in {name.rpartition("/")[0] for name in names} - {""}:
            path = self.folder / parent
            with contextlib.suppress(OSError):
                if path.resolve() == path:  # the list may be somebody else's, and lead elsewhere
                    path.rmdir()  # not while there is anything in it

    def _note(self, unused: dict[str, float]) -> None:
        path = self.folder / UNUSED
        with disk_errors(path, "write", UNPUBLISHED):
            if not unused:
                path.unlink(missing_ok=True)
                return
            replace_file(path, json.dumps(unused, indent=1).encode() + b"\n")
