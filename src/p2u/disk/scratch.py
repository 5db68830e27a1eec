"""Scratch folders: files in the making, next to their place, so that a rename puts them there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from p2u.disk import files
from p2u.disk.locks import FileLock
from p2u.errors import BusyError, DiskError

#: Kinds of scratch folders: one in the making, one that gave way to it, one that is being removed.
MAKING, FORMER, LEAVING = "packing", "old", "gone"
_SCRATCH = re.compile(
    rf"\.(?P<name>.+)\.[0-9a-f]{{8}}\.(?P<kind>{MAKING}|{FORMER}|{LEAVING})\Z", re.DOTALL
)
#: The lock in a scratch folder.
LOCK = ".p2u-lock"
#: Bytes of a target's name in the names of its scratch folders, which are at most 255 long.
_NAME_BYTES = 200


def scratch_path(target: Path, kind: str) -> Path:
    """A free path ``.NAME.xxxxxxxx.KIND`` next to a target; names the target if we are killed."""
    return target.with_name(f".{_short(target.name)}.{os.urandom(4).hex()}.{kind}")


def _short(name: str) -> str:
    """A name that leaves room for more: of a long one, the beginning and a digest."""
    raw = os.fsencode(name)
    if len(raw) <= _NAME_BYTES:
        return name
    from hashlib import sha256

    mark = sha256(raw).hexdigest()[:16]
    return f"{raw[: _NAME_BYTES - 17].decode(errors='ignore')}~{mark}"


def make_empty(path: Path) -> None:
    """Make a folder; a former file, link or folder of that name is removed."""
    files.remove_tree(path)
    path.mkdir()


class ScratchFolder:
    """A folder that is empty at first and removed in the end, if it is still there.

    A context manager. Only one process at a time may use the path.

    Args:
        path: The folder.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> ScratchFolder:
        make_empty(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class HeldFolder:
    """A scratch folder next to a target, with a lock in it: without its holder, it is abandoned.

    A context manager; the folder is removed in the end, unless it was moved to its place.

    Args:
        target: The future place of the folder.
        mode: Of the folder; by default the usual one, for it is what others will read.

    Attributes:
        path: The folder, or its place once it is there.

    Raises:
        OSError, DiskError: It cannot be made.
    """

    def __init__(self, target: Path, mode: int = 0o777) -> None:
        self._target = target
        self._mode = mode
        self._take_path()

    def _take_path(self) -> None:
        self.path = scratch_path(self._target, MAKING)
        self._lock = _lock(self.path)

    def __enter__(self) -> HeldFolder:
        while True:
            self.path.mkdir(self._mode, parents=True)
            # Until it is locked, somebody may take it for an abandoned one and remove it.
            try:
                self._lock.acquire()
                return self
            except BusyError:
                pass
            except DiskError:
                if self.path.exists():
                    shutil.rmtree(self.path, ignore_errors=True)
                    raise
            self._take_path()

    def move(self, place: Path) -> None:
        """Rename the folder to a free place or an empty folder; the lock is held until then.

        Raises:
            OSError: It cannot be renamed.
        """
        self.let_go()
        self.path.rename(place)
        self.moved(place)

    def let_go(self) -> None:
        """Give the lock back where open files keep a folder from being renamed."""
        if os.name != "posix":
            self._lock.release()

    def moved(self, place: Path) -> None:
        """The folder is at its place now, by a rename or an exchange, and unlocked."""
        self._lock.moved(place / LOCK)
        self._lock.release()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


class TemporaryFolder(HeldFolder):
    """A folder for this process alone, among the system's temporary files.

    Those that killed processes have left are removed first.

    Args:
        name: Of what it is for.
    """

    def __init__(self, name: str) -> None:
        import tempfile  # with what it imports, a megabyte that hardly anybody needs

        target = Path(tempfile.gettempdir(), name)
        remove_abandoned(target)
        super().__init__(target, 0o700)
        self._process = os.getpid()

    def __enter__(self) -> TemporaryFolder:
        super().__enter__()
        return self

    def remove(self) -> None:
        """Remove it, at the end of the process that made it, not of a forked child."""
        if os.getpid() == self._process:
            self.__exit__()


@contextlib.contextmanager
def file_in_the_making(target: Path) -> Iterator[Path]:
    """A place for a file that is renamed to its own when it is complete.

    What killed processes have left of such files is removed first.

    Raises:
        OSError: There is no folder for it.
        DiskError: See `HeldFolder`.
    """
    target.parent.stat()
    remove_abandoned(target)
    with HeldFolder(target, 0o700) as folder:
        yield folder.path / target.name


def remove_abandoned(target: Path) -> None:
    """Remove the scratch folders next to a target that no process holds any more.

    Those of other targets are removed, too, if they have the lock of a holder. A former folder
    stays as long as nothing is in its place: it may be all that is left.
    """
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            found = _SCRATCH.match(entry.name)
            if found is None or not _is_ours(entry):
                continue
            path, place = Path(entry.path), target.with_name(found["name"])
            if found["kind"] == FORMER and not files.lexists(place):
                continue
            if found["name"] == _short(target.name) or files.lexists(path / LOCK):
                _remove_unheld(path, place)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether a real folder, not a link to one, belongs to this user."""
    if not entry.is_dir(follow_symlinks=False):
        return False
    return os.name != "posix" or entry.stat(follow_symlinks=False).st_uid == os.geteuid()


def _remove_unheld(path: Path, target: Path) -> None:
    lock = _lock(path)
    with contextlib.suppress(BusyError, DiskError, OSError), lock:
        # Another name first, or somebody who has just made it would find some of it gone.
        if os.name != "posix":
            lock.release()
        gone = scratch_path(target, LEAVING)
        path.rename(gone)
        lock.moved(gone / LOCK)
        shutil.rmtree(gone, ignore_errors=True)


def _lock(path: Path) -> FileLock:
    return FileLock(path / LOCK, "{owner} uses this folder", "Wait")
