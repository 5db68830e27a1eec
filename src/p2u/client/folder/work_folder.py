"""The work folder ``.<name>.p2u`` next to a target: lock, journal, next state, small cache.

Crash-safe by construction: `settle` finishes or undoes whatever a killed process left behind,
without knowing the package.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.journal import Content, read_journal
from p2u.disk import files
from p2u.disk.errors import disk_errors
from p2u.disk.files import lexists
from p2u.disk.locks import FileLock
from p2u.disk.swap import replace_folder
from p2u.errors import FormatError


def target_prefix(digest: str) -> bytes:
    """The part of a state's digest that a journal's header keeps."""
    return bytes.fromhex(digest)[:28]


class WorkFolder:
    """The work folder of one target.

    Args:
        target: The target folder, without symbolic links; it need not exist.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.parent = target.parent
        self.path = target.with_name(f".{target.name}.p2u")
        self.next = self.path / "next"
        self.old = self.path / "old"
        self._gone = self.path / "gone"
        self.journal = self.path / "journal"
        self.redo = self.path / "redo"
        self.cache = self.path / "cache"
        self._lock = FileLock(
            self.path / "lock",
            "another process is pulling to this folder",
            "Wait until it has ended",
            file=target,
            make_folder=True,
        )

    def exists(self) -> bool:
        """Whether an earlier run left something behind."""
        return self.path.is_dir()

    def acquire(self) -> None:
        """Make the folder and lock it against other processes; a dead one's lock is void.

        Raises:
            BusyError: Another process has it.
            DiskError: It cannot be made.
        """
        self._lock.acquire()

    def release(self, *, remove: bool) -> None:
        """Unlock; with ``remove``, nothing of the folder is left."""
        if not self._lock.held:
            return
        try:
            if remove:
                with disk_errors(self.path):
                    for path in self.path.iterdir():
                        if path != self._lock.path:
                            files.remove_tree(path)
        finally:
            self._lock.release(remove=remove)
        if remove:
            # Not empty where the next process is waiting already.
            with contextlib.suppress(OSError):
                self.path.rmdir()

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
            if _holds(self.next, content):
                self.swap()
            elif lexists(self.target):
                self._retire(self.next)
            else:  # exchanged, and then the user removed the target
                files.remove_tree(self.next)
            self.journal.unlink()
        return True

    def swap(self) -> None:
        """Put ``next``, complete and on the disk, in the target's place; remove what was there.

        At any moment the target is the old or the new folder; only where the system cannot exchange
        folders there is a moment without one, which `settle` ends if we do not.
        """
        if lexists(self.target):
            self.next.chmod(self.target.stat().st_mode & 0o7777)
            adopt(self.target, self.next)
        former = replace_folder(self.next, self.target, self.old)
        if former is not None:
            self._retire(former)

    def _retire(self, folder: Path) -> None:
        """Remove a former target, but nothing of it that is not the package's."""
        adopt(folder, self.target)
        # Half removed, it would not say any more which of its files were the package's.
        files.remove_tree(self._gone)
        folder.rename(self._gone)
        files.remove_tree(self._gone)


def _holds(folder: Path, content: Content) -> bool:
    """Whether a folder is the one that this journal was about; a former target is not."""
    try:
        found = state_file.read(folder)
    except FormatError:
        return False
    return (
        found is not None
        and target_prefix(found.digest) == content.header.target
        and found.refining is None
        and all(entry.fits(folder) for entry in found.files)
    )


def adopt(source: Path, target: Path) -> None:
    """Give ``target`` all files of ``source`` that belong to no package and that it lacks."""
    try:
        recorded = state_file.read(source)
    except FormatError:
        recorded = None
    ours = {state_file.NAME, state_file.PART}
    if recorded is not None:
        ours |= {entry.path for entry in recorded.files}
    for name, folders, names in os.walk(source):
        folder = Path(name)
        below = folder.relative_to(source)
        links = [name for name in folders if (folder / name).is_symlink()]
        for path in (below / name for name in (*names, *links)):
            if path.as_posix() not in ours and not lexists(target / path):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                files.link_or_copy(source / path, target / path)
        if not folders and not names:
            (target / below).mkdir(parents=True, exist_ok=True)
