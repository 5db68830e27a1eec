"""Copy a state that is elsewhere on the disk to the target, and check it."""

from __future__ import annotations

import hashlib

from p2u.client.folder import state_file
from p2u.client.folder.journal import Header, Journal
from p2u.client.folder.local import FoundState
from p2u.client.folder.modes import keep_modes
from p2u.client.folder.work_folder import WorkFolder, target_prefix
from p2u.client.transfer.package_reader import PackageReader
from p2u.disk import durable, files
from p2u.disk.errors import disk_errors
from p2u.disk.reflink import copy_file
from p2u.disk.scratch import make_empty
from p2u.errors import IntegrityError


def copy_state(package: PackageReader, work: WorkFolder, parent: FoundState) -> None:
    """Let the target be a state whose files are elsewhere.

    Raises:
        IntegrityError: The files have changed since they were recognised.
        DiskError: They cannot be read or written.
    """
    manifest, state = package.manifest, parent.state
    release = manifest.release(state)
    number = release.number(state)
    with disk_errors(work.path):
        files.remove_tree(work.redo)
        make_empty(work.next)
        identity = hashlib.sha256(f"copy {state.digest}".encode()).digest()
        log = Journal(work.journal, Header(False, identity, target_prefix(state.digest)))
        for file, source in zip(release.files, parent.paths, strict=True):
            path = work.next / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, path)
            if files.hash_file(path, package.stop.check) != file.digest(number):
                raise IntegrityError("was changed during the copy", file=str(source))
            durable.sync_file(path)
        keep_modes(release, work)
        state_file.make(manifest, state, package.url).with_hints(work.next).write_new(work.next)
        durable.sync_folders(work.next)
        log.ready()
        work.swap()
        log.close()
        work.journal.unlink()
