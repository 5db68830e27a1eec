"""One publisher at a time: a lock file in the package's folder, with who holds it.

The system's own lock on the file decides, which ends with the process. Where a file system has
none, or another machine holds the file, its text decides: host, process and time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from p2u.errors import BusyError
from p2u.packing.chunking.source import disk_errors

NAME = ".p2u-lock"
#: Locks of Windows hide the bytes they cover from other processes: one far behind the text.
_FAR = 1 << 30
_LIMIT = 4096
_LACKING = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock: process, machine, and since when (seconds since 1970)."""

    pid: int
    host: str
    time: float


class Lock:
    """The lock of a package's folder; a context manager.

    Args:
        folder: The package, which exists.

    Raises:
        BusyError: Another process, or another thread of this one, publishes to it.
        DiskError: The file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._fd: int | None = None

    def __enter__(self) -> Lock:
        with disk_errors(str(self._path), "write"):
            while self._fd is None:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0))
                try:
                    if self._take(fd):
                        self._fd = fd
                finally:
                    if self._fd is None:
                        os.close(fd)
        return self

    def _take(self, fd: int) -> bool:
        """Make an open file ours; False if it is no longer the one that has the name."""
        locked = _try_lock(fd)
        owner = _read(fd)
        if locked is False:
            raise self._busy(owner)
        # The former owner may have removed the file between our open and our lock.
        try:
            if not os.path.samestat(self._path.stat(), os.fstat(fd)):
                return False
        except FileNotFoundError:
            return False
        here = socket.gethostname()
        if owner is not None and (owner.host != here or (locked is None and _alive(owner.pid))):
            raise self._busy(owner)
        text = json.dumps(asdict(Owner(os.getpid(), here, round(time.time(), 3))))
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, text.encode() + b"\n")
        return True

    def _busy(self, owner: Owner | None) -> BusyError:
        who = "another process"
        if owner is not None:
            minutes = max(0, int(time.time() - owner.time)) // 60
            who = f"process {owner.pid} on {owner.host}, for {minutes} min,"
        return BusyError(
            f"{who} publishes to this package",
            file=str(self._path.parent),
            hint=f"Wait until it has ended; if it is no more, remove the file {NAME} there",
        )

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            # The package may have given way to another one, which has its own lock.
            if os.name == "posix" and os.path.samestat(self._path.stat(), os.fstat(fd)):
                self._path.unlink()
        os.close(fd)
        if os.name != "posix":
            with contextlib.suppress(OSError):
                self._path.unlink()


def _try_lock(fd: int) -> bool | None:
    """Lock a file without waiting; None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(fd, _FAR, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LACKING:
            return None
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _read(fd: int) -> Owner | None:
    """Who a lock file names; None if nobody, which a lock that was let go does."""
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        tree = json.loads(os.read(fd, _LIMIT))
        return Owner(int(tree["pid"]), str(tree["host"]), float(tree["time"]))
    except (ValueError, TypeError, KeyError):
        return None


def _alive(pid: int) -> bool:
    """Whether a process of this machine lives."""
    if os.name != "posix":
        return True  # signal 0 would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it belongs to somebody else
    return True
