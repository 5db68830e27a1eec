"""``p2u.verify``: compare every byte of a package or a pulled folder with its digest."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2u.client.folder import state_file
from p2u.client.folder.folder_transfer import FolderTransfer
from p2u.client.folder.pull_task import PullTask
from p2u.client.transfer.bundles import Wanted
from p2u.client.transfer.checking import ALL
from p2u.client.transfer.control import Progress
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.disk.errors import TRY_AGAIN, disk_errors
from p2u.disk.files import hash_file, remove_tree
from p2u.disk.scratch import TemporaryFolder
from p2u.errors import FormatError, IntegrityError, NotFoundError
from p2u.package.manifest import costs
from p2u.package.paths import MANIFEST_KEY
from p2u.stores.backoff import Retry
from p2u.stores.schemes import scheme_of

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Bytes that were checked, and are right.

    Attributes:
        kind: ``"package"`` or ``"directory"``.
        name: The package's name.
        states: Labels of the package's states, or of the one that the directory holds.
        files: Number of files checked: model files of a directory, objects and blobs of a package.
        chunks: Number of chunks checked; 0 for a directory.
        bytes: Bytes checked.
        decoded: Whether every update was made and its files compared with their SHA-256.
    """

    kind: Literal["package", "directory"]
    name: str
    states: tuple[str, ...]
    files: int
    chunks: int
    bytes: int
    decoded: bool


def verify(
    source: str | os.PathLike[str],
    *,
    decode: bool = False,
    jobs: int | None = None,
    limit_rate: float | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: Retry | None = None,
) -> VerifyReport:
    """Check a package or a pulled directory; returns if all is right.

    Args:
        source: Path or URL of a package, or path of a directory that was pulled.
        decode: Of a package, make every update too (in a temporary folder) and check its files; but
            for those that only begin at what others published.
        jobs: See `p2u.TransferOptions`; of a package.
        limit_rate: See `p2u.TransferOptions`; of a package.
        progress: Called about ten times a second, in this thread.
        retry: See `p2u.TransferOptions`; of a package.

    Raises:
        IntegrityError: Bytes do not have the size or the SHA-256 stated.
        FormatError, UnsupportedError: It is malformed, or neither a package nor was pulled.
        StoreError, DiskError: It could not be read.
    """
    options = TransferOptions(jobs=jobs, limit_rate=limit_rate, retry=retry)
    path = Path(source)
    if scheme_of(source) is None:
        if path.is_dir() and not (path / MANIFEST_KEY).exists():
            return _directory(path, progress)
        if not path.exists():
            raise NotFoundError("no such file or folder", file=str(path), hint="Check the path")
    with PackageReader(source, options) as package:
        report = _package(package, progress, decode)
        if decode:
            with contextlib.ExitStack() as stack:
                with disk_errors(tempfile.gettempdir(), "write", TRY_AGAIN):
                    folder = stack.enter_context(TemporaryFolder("p2u-verify"))
                _decode_all(package, folder.path / "model")
    return report


def _decode_all(package: PackageReader, folder: Path) -> None:
    """Make each update, and let the client compare its files with their SHA-256.

    Updates that only begin at what others published cannot be made.
    """
    manifest = package.manifest
    reached = costs(manifest)
    here: str | None = None
    for update in sorted(
        manifest.updates, key=lambda u: manifest.states.index(manifest.state(u.target))
    ):
        if update.source is not None and update.source not in reached:
            continue
        if update.source is None or update.source != here:
            remove_tree(folder)
        if update.source is not None and update.source != here:
            FolderTransfer(package, folder, PullTask(until=update.source)).run()
        task = PullTask(until=update.target, check=ALL)
        FolderTransfer(package, folder, task, updates=(update,)).run()
        here = update.target


def _package(
    package: PackageReader, progress: Callable[[Progress], None] | None, decoded: bool
) -> VerifyReport:
    manifest = package.manifest
    labels = tuple(manifest.title(state) for state in manifest.states)
    layouts = dict.fromkeys(release.layout for release in manifest.releases)
    objects = [*layouts, *(u.index for u in manifest.updates)]
    size = sum(o.size for o in objects) + sum(u.bytes for u in manifest.updates)
    chunks = 0
    for update in manifest.updates:

        def tick(label: str = manifest.title(update.target)) -> None:
            if progress is not None:
                meter = package.meter
                progress(Progress(None, label, meter.done, size, meter.rate(), meter.seconds))

        held = package.index(update).chunks
        # The fetcher checks each hash before it hands a chunk on; there is nothing to add.
        package.fetcher.run(Wanted.of(update.blobs, held), lambda bundle, payloads: None, tick)
        chunks += len(held)
    files = 1 + len(objects) + sum(len(u.blobs) for u in manifest.updates)
    total = package.meter.received
    return VerifyReport("package", manifest.name, labels, files, chunks, total, decoded)


def _directory(folder: Path, progress: Callable[[Progress], None] | None) -> VerifyReport:
    with disk_errors(folder, "read"):
        recorded = state_file.read(folder)
    if recorded is None:
        raise FormatError(
            f"is neither a package (no {MANIFEST_KEY}) nor a directory that was pulled (no "
            f"{state_file.NAME})",
            file=str(folder),
            hint="`p2u pack` makes a package of a model",
        )
    if recorded.refining is not None:
        raise IntegrityError(
            "its files are being refined in place, so they have no single state",
            file=str(folder),
            hint="Run the pull again to finish it",
        )
    label = recorded.state.rpartition("@")[2]
    total = sum(entry.size for entry in recorded.files)
    done = 0
    for entry in recorded.files:
        path = folder / entry.path
        with disk_errors(path, "read"):
            os.fsencode(path)
        if not path.is_file():
            raise IntegrityError("is missing", file=str(path), hint="Pull again to fetch it")
        with disk_errors(path, "read"):
            found = hash_file(path, lambda: None)
        if found != entry.sha256:
            with contextlib.suppress(OSError):  # the next pull is to see it, too
                recorded.without_hints().write(folder)
            raise IntegrityError(
                f"SHA-256 {found}, expected {entry.sha256}",
                file=str(path),
                hint="It was changed or damaged; pull with --repair to fetch it again",
            )
        done += entry.size
        if progress is not None:
            progress(Progress(label, None, done, total, 0.0, 0.0))
    return VerifyReport(
        "directory", recorded.name, (label,), len(recorded.files), 0, total, decoded=False
    )
