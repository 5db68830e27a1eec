"""Claims: one process fetches an object, and the others wait for it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from p2u.cache.folders import make_folder

#: Seconds after which a claim that was not renewed is a dead process's.
STALE = 5.0
#: Seconds between two renewals.
_RENEWED = 1.0


class Claims:
    """The claims that this process holds on objects of a cache. Thread-safe.

    A claim is a file that only one process can make, and touches while bytes arrive: it needs no
    lock of the file system, and outlives its process by seconds only. Two processes that fetch the
    same object after all lose time, nothing else.

    Args:
        folder: In the cache's own folder; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        #: When each claim was renewed, by `time.monotonic`.
        self._held: dict[str, float] = {}

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256

    def take(self, sha256: str) -> bool:
        """Claim an object; False while another process fetches it.

        A cache that cannot be written has no claims: everybody fetches.
        """
        with self._lock:
            if sha256 in self._held:
                return True
            path = self._path(sha256)
            for _ in range(2):
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                except FileExistsError:
                    if not self._is_stale(path):
                        return False
                    with contextlib.suppress(OSError):
                        path.unlink()
                except FileNotFoundError:
                    with contextlib.suppress(OSError):
                        make_folder(self._folder, self._folder.parent)
                except OSError:
                    break
                else:
                    break
            self._held[sha256] = time.monotonic()
            return True

    def _is_stale(self, path: Path) -> bool:
        try:
            return time.time() - path.stat().st_mtime > STALE
        except OSError:
            return True

    def renew(self, sha256s: Iterable[str]) -> None:
        """Bytes of these objects have arrived."""
        now = time.monotonic()
        with self._lock:
            for sha256 in sha256s:
                if now - self._held.get(sha256, now) > _RENEWED:
                    self._held[sha256] = now
                    with contextlib.suppress(OSError):
                        os.utime(self._path(sha256))

    def release(self, sha256: str) -> None:
        """An object is in the cache, or is not fetched any more."""
        with self._lock:
            if self._held.pop(sha256, None) is not None:
                with contextlib.suppress(OSError):
                    self._path(sha256).unlink()

    def release_all(self) -> None:
        """Nothing is fetched any more."""
        for sha256 in list(self._held):
            self.release(sha256)
