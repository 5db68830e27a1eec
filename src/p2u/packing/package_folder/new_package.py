"""A new package: its folder is made next to its place and moved there when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from p2u.disk.access import restrict_all
from p2u.disk.durable import sync_folder, sync_folders
from p2u.disk.errors import UNPUBLISHED, disk_errors
from p2u.disk.scratch import FORMER, HeldFolder, remove_abandoned
from p2u.disk.swap import replace_folder
from p2u.errors import ConflictError, DiskError, P2UError, UsageError
from p2u.package.keys import keys
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY, RESERVED
from p2u.packing.package_folder.open_package import read_manifest, read_unused
from p2u.stores.schemes import scheme_of

_OTHER = "Choose a new directory, or remove this one"


def check_target(dst: str, src: str, *, replace: bool = False) -> Path:
    """The future path of the package: a free path or an empty directory.

    Args:
        dst: The path.
        src: The model.
        replace: Whether a package may be there.

    Raises:
        UsageError: Something else is there, or it lies in the model or the model in it.
        DiskError: It cannot be looked at.
    """
    with disk_errors(dst, "read"):
        target, model = Path(os.path.realpath(dst)), Path(os.path.realpath(src))
        here = scheme_of(src) is None
        if here and (target == model or target in model.parents or model in target.parents):
            raise UsageError(
                "package and model must be outside each other's directory",
                file=dst,
                hint="Choose another directory",
            )
        if target.exists() and not target.is_dir():
            raise UsageError("is a file, expected a directory", file=dst, hint=_OTHER)
        if target.is_dir() and any(target.iterdir()):
            _check_package(target, dst, replace=replace)
    return target


def _check_package(target: Path, dst: str, *, replace: bool) -> None:
    """Raise UsageError unless a directory is a package and nothing else: it will be removed."""
    try:
        manifest = parse_manifest(read_manifest(target))
    except DiskError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UsageError("the directory is not empty", file=dst, hint=_OTHER) from None
        raise
    except P2UError as error:
        raise UsageError(
            f"holds a {MANIFEST_KEY} that cannot be read ({error.message})", file=dst, hint=_OTHER
        ) from error
    if not replace:
        versions = [release.version for release in manifest.releases if not release.foreign]
        count = "1 version" if len(versions) == 1 else f"{len(versions)} versions"
        raise UsageError(
            f"holds the package {manifest.name!r} with {count}: {', '.join(versions[-5:])}",
            file=dst,
            hint="`p2u publish` adds a version; --replace packs a new package in its place",
        )
    known = keys(manifest) | set(read_unused(target))
    for folder, _, names in os.walk(target):
        for name in names:
            key = (Path(folder) / name).relative_to(target).as_posix()
            if key not in known and not key.startswith(RESERVED):
                raise UsageError(
                    f"holds a package, but {key!r} is not part of it", file=dst, hint=_OTHER
                )


class NewPackage(HeldFolder):
    """A folder next to the package's place; a context manager that leaves nothing else behind.

    What killed publishers left there is removed.

    Args:
        target: The package's place.
        replace: Whether a package that is there gives way.
        bits: Those of modes that its files may have, for others than their owner.

    Attributes:
        path: The folder, for the files of the package.

    Raises:
        DiskError: The folder cannot be made.
    """

    def __init__(self, target: Path, *, replace: bool = True, bits: int = 0o7777) -> None:
        super().__init__(target)
        self._bits = bits
        self._replace = replace

    def __enter__(self) -> NewPackage:
        with disk_errors(self._target, "write", UNPUBLISHED):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self._target)
            super().__enter__()
        return self

    def publish(self) -> None:
        """Move the package to its place, instead of an older one.

        Raises:
            ConflictError: There is one now, which must not give way.
            DiskError: It cannot be moved; the older package is there still.
        """
        target = self._target
        with disk_errors(target, "write", UNPUBLISHED):
            restrict_all(self.path, self._bits)
            sync_folders(self.path)
            if target.exists() and any(target.iterdir()):
                if not self._replace:
                    raise self._conflict()
                self.let_go()
                old = replace_folder(self.path, target, self.path.with_suffix(f".{FORMER}"))
                self.moved(target)
                if old is not None:
                    shutil.rmtree(old, ignore_errors=True)
                return
            # Not replaced: somebody else may publish a package there just now.
            if target.exists():
                target.rmdir()
            try:
                self.move(target)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    raise self._conflict() from error
                raise
            sync_folder(target.parent)

    def _conflict(self) -> ConflictError:
        return ConflictError(
            "another package appeared here during packing",
            file=str(self._target),
            hint="Another publisher made it; publish again to add a version to it",
        )
