"""The manifests that were read, by URL: a start without the network begins with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2u.disk.durable import replace_file
from p2u.disk.files import read_small
from p2u.package.manifest import MAX_MANIFEST

#: Most bytes of the line before a manifest.
_MOST_HEAD = 16 << 10


@dataclass(frozen=True, slots=True)
class CachedManifest:
    """A manifest that was read before.

    Attributes:
        url: Of the package.
        data: The bytes of its ``p2u.json``.
        read: When it was read (Unix time).
        path: Its file.
    """

    url: str
    data: bytes
    read: float
    path: Path


class CachedManifests:
    """The manifests of a cache.

    Nothing shows whether a manifest is its publisher's, so only those count that this user, or the
    system's administrator, has written.

    Args:
        folder: Made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        # Users who share a cache have files of their own.
        self._folder = folder / (str(os.getuid()) if hasattr(os, "getuid") else "user")

    def _path(self, url: str) -> Path:
        return self._folder / hashlib.sha256(url.encode()).hexdigest()

    def get(self, url: str) -> CachedManifest | None:
        """The manifest that was last read from a URL; None if there is none."""
        found = self._read(self._path(url))
        return found if found is not None and found.url == url else None

    def put(self, url: str, data: bytes) -> None:
        """Keep a manifest that was read and is valid, if that is possible."""
        path = self._path(url)
        head = json.dumps({"url": url}).encode() + b"\n"
        with contextlib.suppress(OSError):
            kept = self._read(path)
            if kept is not None and kept.data == data and kept.url == url:
                os.utime(path)
                return
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            replace_file(path, head + data)

    def all(self) -> Iterator[CachedManifest]:
        """All manifests of this user, those read last first."""
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return
        found = [manifest for path in paths if (manifest := self._read(path)) is not None]
        yield from sorted(found, key=lambda manifest: -manifest.read)

    def remove(self, manifest: CachedManifest) -> None:
        """Forget a manifest."""
        with contextlib.suppress(OSError):
            manifest.path.unlink()

    def _read(self, path: Path) -> CachedManifest | None:
        try:
            about = os.lstat(path)
            ours = not hasattr(os, "geteuid") or about.st_uid in (0, os.geteuid())
            if not ours or not stat.S_ISREG(about.st_mode):
                return None
            data = read_small(path, MAX_MANIFEST + _MOST_HEAD)
            head, _, rest = (data or b"").partition(b"\n")
            url = json.loads(head)["url"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if not isinstance(url, str):
            return None
        return CachedManifest(url, rest, about.st_mtime, path)
