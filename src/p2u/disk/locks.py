"""File locks: one holder at a time, among the processes of all machines that share a folder.

The system's own lock on the file decides; it ends with the process that holds it, whatever the
file's text says. Some file systems have none (Lustre, FUSE, NFS and SMB with some options), or keep
them from other machines: there the text decides, which names the holder's machine, process and
time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from p2u.disk.errors import RESUMES, disk_errors
from p2u.disk.lacking import lacks
from p2u.disk.mounts import shares_locks
from p2u.disk.own_folder import make_own
from p2u.errors import BusyError
from p2u.one_process import OneProcess

#: Windows hides locked bytes from other processes: we lock one far behind the text.
_FAR = 1 << 30
#: Times that another process may remove the file between our open and our lock.
_TRIES = 100
#: A name that leads to another file is an error, and nobody waits for the other end of a FIFO.
_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
#: Bytes of a holder's text.
_LIMIT = 4096
#: Seconds after which a text does not speak for a process of another machine any more: containers
#: die and come back under another name.
LONGEST = 2 * 24 * 3600.0
_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}

#: Device and inode of each lock file that this process holds.
_ours: set[tuple[int, int]] = set()


def try_lock(fd: int) -> bool | None:
    """Lock an open file for this process without waiting.

    Returns:
        Whether it is ours now; None if the file system has no locks.

    Raises:
        OSError: It failed for another reason.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(fd, _FAR, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if lacks(error, errno.ENOLCK, errno.EPERM):
            return None
        raise
    return True


def _unlock(fd: int) -> None:
    """Give an open file's lock back, also if a child that was forked just now has it open, too."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of a lock: its process, its machine, and since when (seconds since 1970)."""

    pid: int
    host: str
    time: float

    def __str__(self) -> str:
        minutes = max(0, int(time.time() - self.time)) // 60
        return f"process {self.pid} on {self.host}, for {minutes} min,"


class FileLock(OneProcess):
    """A lock file; a context manager. Excludes other processes and other threads of this one.

    Args:
        path: The file. It is made, and removed when the lock is released.
        message: Of the BusyError; ``{owner}`` in it is replaced by the holder.
        hint: Of the BusyError.
        file: What the BusyError calls the locked thing; the lock file if it is None.
        make_folder: Whether to make the folder that the file is in, see `make_own`. Another process
            may remove it at any time.
        full: The remedy if the disk is full.
    """

    def __init__(
        self,
        path: Path,
        message: str,
        hint: str,
        *,
        file: Path | None = None,
        make_folder: bool = False,
        full: str = RESUMES,
    ) -> None:
        self.path = path
        self._message = message
        self._hint = hint
        self._file = file or path
        self._make_folder = make_folder
        self._full = full
        self._fd: int | None = None
        self.register_forks()

    @property
    def held(self) -> bool:
        """Whether the lock is ours."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock without waiting. The lock of a dead process is void.

        Raises:
            BusyError: Somebody holds it.
            DiskError: The file cannot be made.
        """
        with disk_errors(self.path, "write", self._full):
            for _ in range(_TRIES):
                if self._fd is not None:
                    return
                fd = self._open()
                if fd is None:
                    continue
                try:
                    if self._take(fd):
                        self._fd = fd
                        _ours.add(_identity(fd))
                finally:
                    if self._fd is None:
                        os.close(fd)
            if self._fd is None:
                raise self._busy(None, self._hint)

    def _open(self) -> int | None:
        """Open the lock file; None if its folder was removed just now."""
        if self._make_folder:
            make_own(self.path.parent)
        try:
            fd = os.open(self.path, _FLAGS, 0o666)
        except FileNotFoundError:
            if self._make_folder:
                return None
            raise
        found = os.fstat(fd)
        # The text would replace the content of another file that has this name, too.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(fd)
            raise OSError(errno.ELOOP, "not a lock file of its own", str(self.path))
        return fd

    def _take(self, fd: int) -> bool:
        """Make an open file ours; False if the name leads to another one now."""
        locked = try_lock(fd)
        owner = _read(fd)
        if locked is False:
            raise self._busy(owner, self._hint)
        # The last holder may have removed the file between our open and our lock.
        if not self._is_named(fd):
            return False
        import socket  # whoever only reads never needs it

        here = socket.gethostname()
        if owner is not None and self._counts(owner, here, fd, void=locked is not None):
            hint = f"{self._hint}; if that process is gone, remove the file {self.path}"
            raise self._busy(owner, hint)
        text = json.dumps(asdict(Owner(os.getpid(), here, round(time.time(), 3))))
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, text.encode() + b"\n")
        return True

    def _counts(self, owner: Owner, here: str, fd: int, *, void: bool) -> bool:
        """Whether the holder that the text names may still live.

        Args:
            owner: The holder.
            here: This machine's name.
            fd: The file.
            void: Whether no process of this machine holds the lock.
        """
        if owner.host != here:
            recent = time.time() - owner.time < LONGEST
            return recent and not (void and shares_locks(fd))
        if void:
            return False
        if owner.pid == os.getpid():  # in a container, a dead process had our number, too
            return _identity(fd) in _ours
        return _is_alive(owner.pid)

    def _is_named(self, fd: int) -> bool:
        """Whether the file's name leads to an open file."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _busy(self, owner: Owner | None, hint: str) -> BusyError:
        holder = "another process" if owner is None else str(owner)
        return BusyError(self._message.format(owner=holder), file=str(self._file), hint=hint)

    def after_fork(self, *, child: bool) -> None:
        """See `OneProcess.after_fork`: the lock stays the parent's, and ends with it."""
        fd = self._fd
        if child and fd is not None:
            self._fd = None
            _ours.discard(_identity(fd))
            os.close(fd)

    def moved(self, path: Path) -> None:
        """The folder that the file is in has another name now.

        Args:
            path: The file's path from now on.
        """
        self.path = path

    def release(self, *, remove: bool = True) -> None:
        """Give the lock back, if it is ours.

        Args:
            remove: Whether to remove the file.
        """
        fd, self._fd = self._fd, None
        if fd is None:
            return
        posix = os.name == "posix"
        try:
            with contextlib.suppress(OSError):
                # The folder may have given way to another one, which has a lock of its own.
                if remove and posix and self._is_named(fd):
                    self.path.unlink()
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
        finally:
            _ours.discard(_identity(fd))
            _unlock(fd)
            os.close(fd)
        if remove and not posix:  # an open file cannot be removed there
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _read(fd: int) -> Owner | None:
    """The holder that a lock file names; None if it names nobody."""
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        tree = json.loads(os.read(fd, _LIMIT))
        owner = Owner(int(tree["pid"]), str(tree["host"]), float(tree["time"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return owner if math.isfinite(owner.time) else None


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine lives."""
    if os.name != "posix":
        return True  # signal 0 would end it there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it belongs to somebody else
    return pid > 0  # others mean groups of processes
