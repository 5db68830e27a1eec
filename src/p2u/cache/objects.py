"""Content-addressed files: whatever has a digest is kept under it, by any process at any time."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2u.cache.folders import make_folder
from p2u.disk.files import NOFOLLOW, NONBLOCK, hash_file
from p2u.disk.reflink import reflink

_log = logging.getLogger("p2u.cache")

#: Bytes of the disk that are left free.
SPARED = 1 << 30
#: The part of the limit after which old files are looked for again, and what is left of the limit.
_SHARE, _LEFT = 0.05, 0.95
#: Seconds after which a file's last use is noted again, and an unfinished file is a dead writer's.
_NOTED, _DEAD = 600.0, 3600.0
#: How the names of unfinished files end.
_PART = ".part"
_OURS = re.compile(r"([0-9a-f]{62}|[0-9a-f]+\.part)\Z")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of the cache: its path, its bytes, and when it was last used (Unix time)."""

    path: Path
    size: int
    used: float

    @property
    def sha256(self) -> str:
        """The digest that its bytes should have."""
        return self.path.parent.name + self.path.name


class CachedObjects:
    """The content-addressed files of a cache. Thread-safe, and safe among processes.

    A file appears whole under the digest of its bytes, or not at all, so writers need no lock.
    Bytes are checked by whoever reads them: a cache that others may write to costs time at worst.
    A cache that cannot be written, or a disk that is full, only means that nothing is kept.

    Args:
        folder: In the cache's own folder; made when something is kept.
        limit: Most bytes; the files used last are kept.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._lock = threading.Lock()
        self._written = 0
        self._broken = False

    def path(self, sha256: str) -> Path:
        """Where an object is, or would be."""
        return self.folder / sha256[:2] / sha256[2:]

    def has(self, sha256: str) -> bool:
        """Whether an object is here; its bytes may be wrong."""
        return self.path(sha256).exists()

    def open(self, sha256: str) -> int | None:
        """A descriptor of an object's file, to be closed by the caller; None if it is not here."""
        path = self.path(sha256)
        try:
            fd = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            return None
        if time.time() - found.st_mtime > _NOTED:
            with contextlib.suppress(OSError):  # another user's
                os.utime(path)
        return fd

    def read(self, sha256: str, size: int) -> bytes | None:
        """A small object of so many bytes, checked; None if it is not here."""
        fd = self.open(sha256)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(size + 1)
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        self.remove(sha256)
        return None

    def put(self, sha256: str, data: bytes | bytearray | memoryview) -> None:
        """Keep bytes that have this digest, if that is possible."""
        path = self.path(sha256)
        if self._broken or path.exists():
            return
        try:
            self._write(path, data)
        except OSError as error:
            if not self._broken:
                self._broken = True
                _log.warning("nothing more is kept in the cache: %s", error)
            return
        self._grown(len(data))

    def link(self, sha256: str, source: Path) -> None:
        """Keep a file that has this digest, if that takes no room: as a reflink."""
        path = self.path(sha256)
        if self._broken or path.exists():
            return
        part = path.with_name(f"{os.urandom(8).hex()}{_PART}")
        with contextlib.suppress(OSError):  # the next process reads the other bytes that are here
            mode = make_folder(path.parent, self.folder.parent)
            size = source.stat().st_size
            if reflink(source, part, mode & 0o666):
                part.replace(path)
                self._grown(size)

    def clone(self, sha256: str, target: Path) -> bool:
        """Make a new file of an object, as a reflink; whether it was possible.

        Raises:
            OSError: The target exists or cannot be made.
        """
        if not self.has(sha256) or not reflink(self.path(sha256), target):
            return False
        with contextlib.suppress(OSError):  # another user's
            os.utime(self.path(sha256))
        return True

    def _grown(self, count: int) -> None:
        """So many bytes were added; now and then, the oldest are removed."""
        with self._lock:
            self._written += count
            full = self._written > _SHARE * self.limit
            if full:
                self._written = 0
        if full:
            self.prune()

    def _write(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        try:
            mode = path.parent.stat().st_mode
        except FileNotFoundError:
            mode = make_folder(path.parent, self.folder.parent)
        if shutil.disk_usage(path.parent).free < SPARED + len(data):
            raise OSError(f"less than {SPARED >> 30} GiB of the disk is free")
        part = path.with_name(f"{os.urandom(8).hex()}{_PART}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | getattr(os, "O_BINARY", 0)
        fd = os.open(part, flags, mode & 0o666)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def remove(self, sha256: str) -> None:
        """Forget an object, wrong or not."""
        with contextlib.suppress(OSError):
            self.path(sha256).unlink()

    def files(self) -> Iterator[CachedFile]:
        """All objects, in no order; files that only just appear or vanish may be missing."""
        for path, found in self._entries():
            if path.suffix != _PART:
                yield CachedFile(path, found.st_size, found.st_mtime)

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for number in range(256):
            folder = self.folder / f"{number:02x}"
            if folder.is_symlink():  # whoever shares the cache could let us remove files elsewhere
                continue
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):
                            found = entry.stat(follow_symlinks=False)
                            if stat.S_ISREG(found.st_mode) and _OURS.match(entry.name):
                                yield Path(entry.path), found
            except OSError:
                continue

    def prune(self, limit: int | None = None, before: float | None = None) -> tuple[int, int]:
        """Remove the files that were used least recently.

        Args:
            limit: Most bytes that stay; None: a little less than the cache's limit, if it has more.
            before: Files used before this Unix time are removed in any case.

        Returns:
            How many files, and how many bytes.
        """
        now = time.time()
        for path, found in self._entries():
            if path.suffix == _PART and now - found.st_mtime > _DEAD:
                with contextlib.suppress(OSError):
                    path.unlink()
        files = sorted(self.files(), key=lambda file: file.used)
        total = sum(file.size for file in files)
        if limit is None:
            limit = self.limit if total <= self.limit else int(_LEFT * self.limit)
        count = freed = 0
        for file in files:
            if total - freed <= limit and (before is None or file.used >= before):
                break
            with contextlib.suppress(OSError):
                file.path.unlink()
                count += 1
                freed += file.size
        return count, freed

    def verify(self) -> Iterator[tuple[CachedFile, bool]]:
        """Each object, and whether its bytes have its digest; wrong ones are removed."""
        for file in self.files():
            try:
                digest = hash_file(file.path, lambda: None)
            except OSError:
                continue
            if digest != file.sha256:
                self.remove(file.sha256)
            yield file, digest == file.sha256
