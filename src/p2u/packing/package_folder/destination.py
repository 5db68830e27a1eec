"""The destination of a new version: a package that grows, or a new one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from p2u.disk.files import remove_tree
from p2u.package.manifest import Manifest
from p2u.package.paths import MANIFEST_KEY
from p2u.packing.engines.engine import Engine
from p2u.packing.engines.places import FolderPlace, Place
from p2u.packing.package_folder.blobs import write_new
from p2u.packing.package_folder.new_package import NewPackage
from p2u.packing.package_folder.open_package import PARENTS, STAGE


class Destination(Protocol):
    """The place of a version; `OpenPackage` is the one of a package that grows.

    Attributes:
        folder: The package's folder.
        stage: An empty folder for new files.
        parents: A free path, for the folder with decoded parents.
    """

    folder: Path
    stage: Path
    parents: Path

    @property
    def manifest(self) -> Manifest:
        """The package as it is."""

    def folder_for(self, name: str) -> str:
        """The future name of the staged files' folder."""

    def place(self, prefix: str, engine: Engine) -> Place:
        """Where an engine writes blobs that will be below a prefix in the package."""

    def bring(self, wanted: Iterable[str]) -> None:
        """Have files of the package in its folder, which are asked for before they are read."""

    def commit(self, manifest: Manifest, folder: str | None) -> None:
        """Publish the staged files."""


class NewDestination:
    """The destination of the first version that a package has.

    Args:
        target: The package's place.
        manifest: A manifest without releases.
        package: The package, unpublished.
    """

    def __init__(self, target: Path, manifest: Manifest, package: NewPackage) -> None:
        self.folder = target
        self._manifest = manifest
        self.stage = package.path / STAGE
        self.parents = package.path / PARENTS
        self._package = package
        self.stage.mkdir()

    @property
    def manifest(self) -> Manifest:
        """See `Destination`."""
        return self._manifest

    def folder_for(self, name: str) -> str:
        """See `Destination`."""
        return name

    def place(self, prefix: str, engine: Engine) -> Place:
        """See `Destination`."""
        return FolderPlace(self.stage)

    def bring(self, wanted: Iterable[str]) -> None:
        """See `Destination`: there are none."""

    def commit(self, manifest: Manifest, folder: str | None) -> None:
        """See `Destination`."""
        assert folder is not None
        remove_tree(self.parents)
        self.stage.rename(self._package.path / folder)
        write_new(self._package.path / MANIFEST_KEY, manifest.to_bytes())
        self._package.publish()
