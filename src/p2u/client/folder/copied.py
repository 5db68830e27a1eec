"""A state that is somewhere else already: copied, checked and put in the target's place."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.journal import Header, Journal
from p2u.client.folder.local import FoundState
from p2u.client.folder.work_folder import WorkFolder, target_prefix
from p2u.client.transfer.package_reader import PackageReader
from p2u.disk.files import disk_errors, hash_file, remove_tree, sync_dir, sync_file
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
        remove_tree(work.redo)
        remove_tree(work.next)
        work.next.mkdir()
        identity = hashlib.sha256(f"copy {state.digest}".encode()).digest()
        log = Journal(work.journal, Header(False, identity, target_prefix(state.digest)))
        for file, source in zip(release.files, parent.paths, strict=True):
            path = work.next / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            if hash_file(path, package.stop.check) != file.digest(number):
                raise IntegrityError("was changed while it was copied", file=str(source))
            sync_file(path)
        state_file.make(manifest, state, package.url).with_hints(work.next).write(work.next)
        for folder, _, _ in os.walk(work.next):
            sync_dir(Path(folder))
        log.ready()
        work.swap()
        log.close()
        work.journal.unlink()
