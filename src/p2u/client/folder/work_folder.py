"""The work folder of a target: lock, journal, next state, small cache; see `place` for where it is.

Crash-safe by construction: `settle` finishes or undoes whatever a killed process left behind,
without knowing the package.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from p2u.client.folder import place, state_file
from p2u.client.folder.journal import Content, read_journal
from p2u.client.folder.replacing import adopt, give_files, move_files
from p2u.disk import access, files, swap
from p2u.disk.durable import sync_folder
from p2u.disk.errors import disk_errors
from p2u.disk.files import lexists
from p2u.disk.locks import FileLock
from p2u.disk.own_folder import expect
from p2u.disk.swap import FIXED, replace_folder
from p2u.errors import DiskError, FormatError


def target_prefix(digest: str) -> bytes:
    """The part of a state's digest that a journal's header keeps."""
    return bytes.fromhex(digest)[:28]


#: Names that a work folder has.
JOURNAL, LOCK = "journal", "lock"
NAMES = frozenset({JOURNAL, LOCK, "next", "old", "gone", "redo", "cache"})


class WorkFolder:
    """The work folder of one target.

    Args:
        target: The target folder, without symbolic links; it need not exist.
        path: The work folder; None: where `place.choose` says.

    Attributes:
        path: The folder; only we may use it.
        inside: Whether it is in the target, whose files are replaced one by one then.

    Raises:
        OSError: The target's place cannot be looked at.
    """

    def __init__(self, target: Path, path: Path | None = None) -> None:
        self.target = target
        self.path = path or place.choose(target)
        self.inside = self.path.parent == target
        self.next = self.path / "next"
        self.old = self.path / "old"
        self._gone = self.path / "gone"
        self.journal = self.path / JOURNAL
        self.redo = self.path / "redo"
        self.cache = self.path / "cache"
        self._lock = FileLock(
            self.path / LOCK,
            "another process is pulling to this folder",
            "Wait until it has ended",
            file=target,
            make_folder=True,
        )

    def exists(self) -> bool:
        """Whether an earlier run left something behind."""
        return lexists(self.path)

    def acquire(self) -> None:
        """Make the folder and lock it against other processes; a dead one's lock is void.

        Raises:
            BusyError: Another process has it.
            DiskError: It cannot be made, somebody else's is there, or the target is closed.
        """
        with disk_errors(self.path):
            if self.target.is_dir() and not os.access(self.target, os.W_OK | os.X_OK):
                raise DiskError(
                    "the folder cannot be written to",
                    file=str(self.target),
                    hint="Check its permissions",
                )
            if lexists(self.path) and not self.path.is_symlink():
                expect(self._lock.path, folder=False)
        self._lock.acquire()
        try:
            with disk_errors(self.path):
                expect(self.journal, folder=False)
                for path in (self.next, self.old, self._gone, self.redo, self.cache):
                    expect(path, folder=True)
        except BaseException:
            self._lock.release(remove=False)
            raise

    def release(self, *, remove: bool) -> None:
        """Unlock; with ``remove``, nothing of ours is left."""
        if not self._lock.held:
            return
        try:
            if remove:
                self.clear()
        finally:
            self._lock.release(remove=remove)
        if remove:
            # Not empty where the next process is waiting already.
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def clear(self) -> None:
        """Remove all that is ours, but for the lock."""
        with disk_errors(self.path):
            for path in (self.next, self.old, self._gone, self.redo, self.cache, self.journal):
                files.remove_tree(path)

    def settle(self) -> bool:
        """Finish what a killed process had begun to put into place.

        Returns:
            Whether the target may have changed.
        """
        content = read_journal(self.journal)
        with disk_errors(self.path):
            # `old` only exists between the two renames of a system without an exchange.
            if not lexists(self.target) and self.old.is_dir():
                ready = content is not None and content.ready and self.next.is_dir()
                (self.next if ready else self.old).rename(self.target)
            if self.old.is_dir():
                self._retire(self.old)
            if content is None or not content.ready or not self.next.is_dir():
                return False
            if _holds(self.target, self.target, content):
                self._retire(self.next)
            elif _holds(self.next, self.next, content):
                self.swap()
            elif _holds(self.next, self.target, content):
                self._move()
            elif lexists(self.target):
                self._retire(self.next)
            else:  # exchanged, and then the user removed the target
                files.remove_tree(self.next)
            self.journal.unlink()
        return True

    def swap(self) -> None:
        """Put ``next``, complete and on the disk, in the target's place; remove what was there.

        At any moment the target is the old or the new folder; only where the system cannot exchange
        folders there is a moment without one, which `settle` ends if we do not. Where the folder
        itself cannot move, its files are replaced one by one.
        """
        if self.inside:
            self._move()
            return
        if lexists(self.target):
            access.take_over(self.next, self.target.stat())
            adopt(self.target, self.next)
        try:
            former = replace_folder(self.next, self.target, self.old, sync=False)
        except OSError as error:
            if error.errno not in FIXED or not self.target.is_dir():
                raise
            self._move()
            return
        if former == self.next:
            self._give_back()
        sync_folder(self.target.parent)
        if former is not None:
            self._retire(former)

    def _move(self) -> None:
        move_files(self.next, self.target)
        files.remove_tree(self.next)

    def _give_back(self) -> None:
        """After an exchange, let the target be the folder that it was, with the new files.

        Shells, mounts and containers refer to the folder, not to its name.
        """
        with contextlib.suppress(OSError, FormatError):  # no links here: the new folder stays
            give_files(self.target, self.next)
            swap.exchange(str(self.next), str(self.target))

    def _retire(self, folder: Path) -> None:
        """Remove a former target, but nothing of it that is not the package's."""
        adopt(folder, self.target)
        # Half removed, it would not say any more which of its files were the package's.
        files.remove_tree(self._gone)
        folder.rename(self._gone)
        files.remove_tree(self._gone)


def _holds(folder: Path, also: Path, content: Content) -> bool:
    """Whether the state that a journal was about is in a folder, or some of its files in another.

    A former target, or one that is being refined in place, holds another state.
    """
    try:
        found = state_file.read(folder)
    except FormatError:
        return False
    return (
        found is not None
        and target_prefix(found.digest) == content.header.target
        and found.refining is None
        and all(entry.fits(folder) or entry.fits(also) for entry in found.files)
    )
