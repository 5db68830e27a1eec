"""Pull the plain files of a repository that is no package: resumed, verified, with progress."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2u.cache.cache import open_cache
from p2u.cache.settings import is_offline
from p2u.client.folder import state_file
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.transfer.control import Meter, Progress, Stop
from p2u.client.transfer.options import TransferOptions
from p2u.disk.durable import sync_file, sync_folders
from p2u.disk.errors import disk_errors
from p2u.disk.files import PIECE, free_bytes
from p2u.errors import DiskError, FormatError, IntegrityError, LimitError, StoreError
from p2u.formats import suffixes
from p2u.package.manifest import LAYOUT_KEY
from p2u.package.paths import check_path, check_paths
from p2u.stores import Store
from p2u.stores.backoff import Retry
from p2u.stores.listing import open_listing
from p2u.stores.retrying import Retrying
from p2u.stores.throttle import ThrottledStore
from p2u.stores.writable import StoredObject

#: Said after each pull of plain files.
ADVICE = (
    "there is no package, so its plain files were fetched; a package of this model (p2u publish) "
    "would be usable after about a fifth of the bytes"
)
#: Seconds between two reports.
_TICK = 0.1
#: Names of weights that no format of ours reads.
_WEIGHTS = (".h5", ".msgpack", ".tflite")


@dataclass(frozen=True, slots=True)
class PlainFiles:
    """The result of a pull of plain files.

    Attributes:
        files: All files of the repository.
        bytes: Their size.
        fetched: Bytes that came from the store.
        requests: Requests made.
        seconds: Time taken.
        retries: Requests made again after a failure.
        hash_failures: Files that came without their digest.
    """

    files: int
    bytes: int
    fetched: int
    requests: int
    seconds: float
    retries: int
    hash_failures: int


def has_weights(found: list[StoredObject]) -> bool:
    """Whether some of the files are those of a model, and not just any pages of a server.

    A package whose manifest is missing for the moment is no model either.
    """
    names = {entry.key.rpartition("/")[2] for entry in found}
    if LAYOUT_KEY in names and any(name.endswith(".index") for name in names):
        return False
    return any(entry.key.lower().endswith((*_WEIGHTS, *suffixes())) for entry in found)


def pull_plain_files(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: TransferOptions,
    progress: Callable[[Progress], None] | None,
    stop: Stop,
    *,
    dry_run: bool,
    total: Meter | None = None,
) -> PlainFiles | None:
    """Pull the files that a place lists; None if it lists no model, or the target has a package.

    Raises:
        StoreError, IntegrityError: They could not be fetched. What came is kept for the next run.
        LimitError: They have more bytes than allowed.
        FormatError: Two of their paths are one on some systems.
        DiskError, BusyError: The folder cannot be written.
    """
    folder = Path(os.path.realpath(target))
    with disk_errors(folder, "read"):
        if state_file.read(folder) is not None:
            return None
    opened = None if is_offline() else open_listing(source)
    if opened is None:
        return None
    store, found = opened
    stop.on_call(store.close)
    with store:
        if not has_weights(found):
            return None
        meter = Meter(total)
        transfer = _PlainTransfer(store, found, folder, options, stop, progress, meter)
        return transfer.run(dry_run=dry_run)


class _PlainTransfer:
    """One run of `pull_plain_files`."""

    def __init__(
        self,
        store: Store,
        found: list[StoredObject],
        target: Path,
        options: TransferOptions,
        stop: Stop,
        progress: Callable[[Progress], None] | None,
        meter: Meter,
    ) -> None:
        self._url = store.url
        limiter = options.limiter()
        if limiter is not None:
            stop.on_call(limiter.cancel)
            store = ThrottledStore(store, limiter)
        self._store = Retrying(store, options.retry or Retry(), self._pause)
        self._found = found
        self._target = target
        self._work = WorkFolder(target)
        self._jobs = options.threads(remote=True)
        self._most = options.max_bytes
        cache = open_cache(options.cache)
        self._objects = None if cache is None else cache.objects
        self._stop = stop
        self._meter = meter
        self._report = progress
        self._total = sum(entry.size for entry in found)

    def run(self, *, dry_run: bool) -> PlainFiles:
        """Fetch what is not there, then put all of it into place."""
        check_paths([entry.key for entry in self._found])
        if self._most is not None and self._total > self._most:
            raise LimitError(
                f"its files have {self._total} bytes, more than {self._most}",
                file=self._url,
                hint="If you trust the repository, raise --max-bytes (max_bytes=)",
            )
        if not dry_run:
            self._fetch_all()
        meter = self._meter
        return PlainFiles(
            len(self._found), self._total, meter.received, meter.requests, meter.seconds,
            meter.retries, meter.hash_failures,
        )  # fmt: skip

    def _pause(self, seconds: float) -> None:
        """Wait before a request is made again."""
        self._meter.retry()
        self._stop.sleep(seconds)

    def _fetch_all(self) -> None:
        with disk_errors(self._target):
            self._target.mkdir(parents=True, exist_ok=True)
        self._work.acquire()
        complete = False
        try:
            with disk_errors(self._work.path):
                self._work.cache.mkdir(exist_ok=True)
            wanted = [entry for entry in self._found if not self._is_there(entry)]
            self._check_space(wanted)
            self._run(wanted)
            self._put_into_place(wanted)
            complete = True
        finally:
            self._work.release(remove=complete)

    def _is_there(self, entry: StoredObject) -> bool:
        """Whether the target has a file already; without a digest, nobody knows."""
        path = self._target.joinpath(*check_path(entry.key))
        digest = _Digest.of(entry)
        with disk_errors(path, "read"):
            if digest is None or not path.is_file() or path.stat().st_size != entry.size:
                return False
            digest.read(path, self._stop.check)
        if digest.is_right():
            self._meter.add(entry.size)
            return True
        return False

    def _check_space(self, wanted: list[StoredObject]) -> None:
        with disk_errors(self._target):
            parts = {entry.key: self._part(entry) for entry in wanted}
            here = sum(path.stat().st_size for path in parts.values() if path.is_file())
            needed, free = sum(entry.size for entry in wanted) - here, free_bytes(self._target)
        if needed > free:
            raise DiskError(
                f"{needed} bytes are needed, {free} are free",
                file=str(self._target),
                hint="Free some space and run the command again: it goes on where it was",
            )

    def _run(self, wanted: list[StoredObject]) -> None:
        """Fetch files in several threads, and report from this one."""
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="p2u-plain") as pool:
            # Large files first: one of them alone at the end would have one thread.
            order = sorted(wanted, key=lambda entry: -entry.size)
            tasks = {pool.submit(self._fetch, entry) for entry in order}
            try:
                while tasks:
                    done, tasks = wait(tasks, timeout=_TICK)
                    for task in done:
                        task.result()
                    self._tick()
            except BaseException:
                for task in tasks:
                    task.cancel()
                self._store.close()
                raise

    def _tick(self) -> None:
        self._stop.check()
        if self._report is not None:
            meter = self._meter
            self._report(Progress(None, None, meter.done, self._total, meter.rate(), meter.seconds))

    def _part(self, entry: StoredObject) -> Path:
        """The place of a file in the making; another content has another one."""
        about = f"{self._url} {entry.key} {entry.size} {entry.sha256} {entry.git_sha1}"
        return self._work.cache / hashlib.sha256(about.encode()).hexdigest()

    def _fetch(self, entry: StoredObject) -> None:
        """Bring one file to the work folder, where it may be in part.

        Raises:
            IntegrityError: It is not what was announced, and was not so again.
        """
        part = self._part(entry)
        for _ in range(2):
            digest = _Digest.of(entry)
            with disk_errors(part):
                self._clone(entry, part)
                # Without a digest nobody would notice parts of two contents in one file.
                if digest is None or (part.is_file() and part.stat().st_size > entry.size):
                    part.unlink(missing_ok=True)
                self._append(entry, part, digest)
                if digest is None or digest.is_right():
                    sync_file(part)
                    if self._objects is not None and entry.sha256 is not None:
                        self._objects.link(entry.sha256, part)
                    return
                if self._objects is not None and entry.sha256 is not None:
                    self._objects.remove(entry.sha256)
                part.unlink()
                self._meter.add(-entry.size)
                self._meter.hash_failure()
        raise IntegrityError(
            "does not have the digest that its repository states",
            file=f"{self._url}/{entry.key}",
            hint="The file is damaged, or was replaced meanwhile; run the same command again",
        )

    def _clone(self, entry: StoredObject, part: Path) -> None:
        """Take a file from the cache, if it can be had without a copy."""
        if self._objects is not None and entry.sha256 is not None and not part.exists():
            self._objects.clone(entry.sha256, part)

    def _append(self, entry: StoredObject, part: Path, digest: _Digest | None) -> None:
        """Fetch the bytes of a file that are not there yet."""
        with open(part, "ab") as file:
            have = file.tell()
            if digest is not None and have:
                digest.read(part, self._stop.check)
            self._meter.add(have)
            if have == entry.size:
                return
            self._meter.request()
            try:
                with closing(self._store.stream(entry.key, have, entry.size - have)) as pieces:
                    for piece in pieces:
                        self._stop.check()
                        file.write(piece)
                        if digest is not None:
                            digest.update(piece)
                        self._meter.receive(len(piece))
                        self._meter.add(len(piece))
            except (StoreError, OSError):
                self._stop.check()
                raise

    def _put_into_place(self, wanted: list[StoredObject]) -> None:
        """Move complete files to the target."""
        root = Path(os.path.realpath(self._target))
        with disk_errors(self._target):
            for entry in wanted:
                path = root.joinpath(*check_path(entry.key))
                path.parent.mkdir(parents=True, exist_ok=True)
                if not Path(os.path.realpath(path.parent)).is_relative_to(root):
                    raise FormatError(
                        "leads out of the folder",
                        file=str(path),
                        hint="Replace the symbolic link by a folder",
                    )
                self._part(entry).replace(path)
            sync_folders(root)


class _Digest:
    """The digest of a file that is to be a known one: SHA-256, or git's of small files."""

    def __init__(self, running: Any, wanted: str) -> None:
        self._running = running
        self._wanted = wanted

    @classmethod
    def of(cls, entry: StoredObject) -> _Digest | None:
        """A new digest; None if nobody knows what it is to be."""
        if entry.sha256 is not None:
            return cls(hashlib.sha256(), entry.sha256)
        if entry.git_sha1 is not None:
            running = hashlib.sha1(usedforsecurity=False)
            running.update(b"blob %d\0" % entry.size)
            return cls(running, entry.git_sha1)
        return None

    def update(self, data: bytes) -> None:
        """Append bytes."""
        self._running.update(data)

    def read(self, path: Path, check: Callable[[], None]) -> None:
        """Append the bytes of a file."""
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                self._running.update(piece)
                check()

    def is_right(self) -> bool:
        """Whether it is the one that was wanted."""
        found: str = self._running.hexdigest()
        return found == self._wanted
