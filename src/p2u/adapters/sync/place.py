"""The place of a publisher's package: a folder, or a URL that can be written."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from p2u.errors import DiskError, NotFoundError
from p2u.package.manifest import MAX_MANIFEST, Manifest
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY
from p2u.packing.package_folder.open_package import read_manifest
from p2u.stores import open_writable
from p2u.stores.backoff import Retry
from p2u.stores.retrying import Retrying
from p2u.stores.schemes import scheme_of


class PublisherPlace:
    """A package and the folder that its publisher works in.

    Args:
        package: A path or URL.
        work: The folder to work in. None: next to the package; for a URL, in the user's folder for
            caches (``XDG_CACHE_HOME``).

    Attributes:
        package: The URL, or the path without links.
        name: For the model.
        work: The folder to work in.

    Raises:
        UnsupportedError: Packages at such a URL can only be read.
        The errors of `open_writable`.
    """

    def __init__(
        self, package: str | os.PathLike[str], work: str | os.PathLike[str] | None
    ) -> None:
        self._remote = scheme_of(package) is not None
        if self._remote:
            with open_writable(package) as store:
                self.package = store.url
            words = re.split(r"[:@]", self.package.rstrip("/").rpartition("/")[2])
            self.name = words[0] or "model"
            digest = hashlib.sha256(self.package.encode()).hexdigest()[:16]
            caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
            self.work = caches / "p2u" / "sync" / f"{self.name}-{digest}"
        else:
            path = Path(os.path.realpath(package))
            self.package, self.name = str(path), path.name
            self.work = path.with_name(f".{path.name}.sync")
        if work is not None:
            self.work = Path(os.path.realpath(work))

    def manifest(self) -> Manifest | None:
        """The package's; None if there is no package.

        Raises:
            StoreError, DiskError, FormatError: It cannot be read.
        """
        if self._remote:
            with open_writable(self.package) as store:
                try:
                    data = Retrying(store, Retry()).read(MANIFEST_KEY, limit=MAX_MANIFEST)
                except NotFoundError:
                    return None
            return parse_manifest(data)
        try:
            return parse_manifest(read_manifest(Path(self.package)))
        except DiskError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise
