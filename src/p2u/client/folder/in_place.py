"""``--in-place``: change the target's own files, for disks without room for two copies.

Before a bundle's new bytes are written over the old ones they are made durable in a *redo* file, so
that a process killed at any moment loses nothing: the next run writes them again. Meanwhile readers
see valid files in which each row is of the previous or of the next state, and a row that is being
written may be a mixture of both.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.journal import Journal, checksum, read_journal
from p2u.client.folder.local import FoundState
from p2u.client.folder.target import Opened, Target, journal_header
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.bundles import Bundle
from p2u.client.transfer.control import wait_briefly
from p2u.client.transfer.package_reader import PackageReader
from p2u.disk import durable, files
from p2u.disk.errors import disk_errors
from p2u.errors import UsageError
from p2u.package.geometry import Span, all_spans, chunk_spans

#: Bytes of redo files after which the target's files are synced and the redo files removed.
REDO_LIMIT = 64 << 20
#: Head of a redo file: the checksum of the rest.
_CLAIM = struct.Struct("<I")


class LostError(Exception):
    """The target's bytes are of no known state: it has to be fetched from nothing."""


class InPlace(Target):
    """Writes bundles over the target's files."""

    def __init__(
        self,
        package: PackageReader,
        work: WorkFolder,
        stretch: Stretch,
        parent: FoundState | None,
        check: str,
    ) -> None:
        super().__init__(package, work, stretch, parent, check)
        #: Bytes that redo files may have here; a single one may have more.
        self.room = REDO_LIMIT
        #: Bundles whose redo file is still needed, and its bytes.
        self._redone: dict[int, int] = {}
        #: Bytes of all redo files, those in the making included.
        self._used = 0
        self._room_changed = threading.Condition()

    def result_folder(self) -> Path:
        """The target itself."""
        return self.work.target

    def prepare(self) -> list[Bundle]:
        """See `Target.prepare`.

        Raises:
            LostError: A bundle that the journal calls done is not, and no redo file has it.
        """
        header = journal_header(self.manifest, self.stretch, in_place=True)
        self._refuse_links()
        with disk_errors(self.work.path):
            recorded = state_file.read(self.work.target)
            if recorded is not None and recorded.refining == self.state.digest:
                return self._go_on()
            files.remove_tree(self.work.redo)
            files.remove_tree(self.work.next)
            self.log = Journal(self.work.journal, header)
            self.work.redo.mkdir()
            durable.sync_folder(self.work.path)
            source = self.manifest.state(self.stretch.source or "")
            before = state_file.make(self.manifest, source, self.package.url)
            replace(before, refining=self.state.digest).write(self.work.target)
        return self.start(())

    def _refuse_links(self) -> None:
        for file in self.changed:
            path = self.result(file)
            with disk_errors(path, "read"):
                linked = path.resolve() != path or path.stat().st_nlink > 1
            if linked:
                raise UsageError(
                    "is a link: refining it in place would change another file too",
                    file=str(path),
                    hint="Pull without --in-place",
                )

    def _go_on(self) -> list[Bundle]:
        header = journal_header(self.manifest, self.stretch, in_place=True)
        found = read_journal(self.work.journal)
        if found is None or found.header != header:
            raise LostError
        self.log = Journal(self.work.journal, header, found)
        self.work.redo.mkdir(exist_ok=True)
        for name in [path.name for path in self.work.redo.iterdir()]:
            if name.isdigit() and int(name) < len(self.bundles):
                redone = self._redo(int(name))
                if redone is not None:
                    found.done[int(name)] = redone
        done = self.confirmed(found.done)
        if len(done) != len(found.done):
            raise LostError
        return self.start(done)

    def _redo(self, number: int) -> int | None:
        """Write a redo file's bytes again; returns their checksum, None if it is torn."""
        assert self.log is not None
        path = self.work.redo / str(number)
        with open(path, "rb") as file:
            claim, data = file.read(_CLAIM.size), memoryview(file.read())
        spans = chunk_spans(self.bundles[number].chunks[0], self.layout)
        found = checksum((data,))
        if claim != _CLAIM.pack(found) or len(data) != sum(span.size for span in spans):
            path.unlink()  # it was not complete, so nothing was written over yet
            return None
        with Opened(self.result, "rb+") as opened:
            at = 0
            for span in spans:
                files.write_at(opened[span.file], span.offset, data[at : at + span.size])
                at += span.size
        self.log.done(number, found)
        self._redone[number] = len(data)
        self._used += len(data)
        return found

    def write(self, bundle: Bundle, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        """See `Target.write`: to the redo file and on the disk first, then in place."""
        assert self.log is not None
        number, found = bundle.number, checksum(buffers)
        size = sum(span.size for span in spans)
        self._make_room(size)
        with disk_errors(self.work.target):
            durable.write_file(self.work.redo / str(number), _CLAIM.pack(found), *buffers)
            durable.sync_folder(self.work.redo)
            with Opened(self.result, "rb+") as opened:
                for span, buffer in zip(spans, buffers, strict=True):
                    files.write_at(opened[span.file], span.offset, buffer)
            self.log.done(number, found)
        with self._room_changed:
            self._redone[number] = size
            self._room_changed.notify_all()

    def _make_room(self, size: int) -> None:
        """Wait until a redo file of so many bytes fits among the others, or is the only one."""
        while True:
            with self._room_changed:
                self.package.stop.check()
                if not self._used or self._used + size <= self.room:
                    self._used += size
                    return
                redone, self._redone = self._redone, {}
                if not redone:  # all are in the making
                    wait_briefly(self._room_changed)
                    continue
            with disk_errors(self.work.target):
                self._checkpoint(redone)

    def _checkpoint(self, redone: dict[int, int]) -> None:
        """Make these bundles durable in place; their redo files have served then."""
        assert self.log is not None
        chunks = (self.bundles[number].chunks[0] for number in redone)
        spans = all_spans(chunks, self.layout)
        for file in {span.file for span in spans}:
            durable.sync_file(self.result(file))
        self.log.sync()
        for number in redone:
            (self.work.redo / str(number)).unlink(missing_ok=True)
        with self._room_changed:
            self._used -= sum(redone.values())
            self._room_changed.notify_all()

    def finish(self) -> None:
        """See `Target.finish`."""
        self.complete_all()
        with disk_errors(self.work.target):
            made = state_file.make(self.manifest, self.state, self.package.url)
            # Before the state file says that all is well: these are of the past then.
            files.remove_tree(self.work.redo)
            made.with_hints(self.work.target).write(self.work.target)
            self.close()
            self.work.journal.unlink()
