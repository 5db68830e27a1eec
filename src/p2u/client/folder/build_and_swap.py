"""Build the next state in the work folder, and swap it with the target when it is complete."""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from p2u.client.folder import state_file
from p2u.client.folder.journal import Journal, checksum, read_journal
from p2u.client.folder.modes import keep_modes
from p2u.client.folder.target import Opened, Target, journal_header
from p2u.client.transfer.bundles import Bundle
from p2u.disk import durable, files
from p2u.disk.errors import disk_errors
from p2u.errors import FormatError
from p2u.package.geometry import Span, all_spans
from p2u.package.mapping import copies


class BuildAndSwap(Target):
    """Builds ``next`` in the work folder from the target's files and the bundles."""

    def result_folder(self) -> Path:
        """The state being built."""
        return self.work.next

    def prepare(self) -> list[Bundle]:
        """See `Target.prepare`."""
        header = journal_header(self.manifest, self.stretch, in_place=False)
        with disk_errors(self.work.path):
            found = read_journal(self.work.journal)
            again = found is not None and found.header == header
            if not again or not all(map(self._is_own, self.changed)):
                found = None
                self.work.journal.unlink(missing_ok=True)
                files.remove_tree(self.work.redo)
                files.remove_tree(self.work.next)
            for file in self.changed:
                self._make_file(file)
            self._record()
            # Bytes that no chunk brings are the previous state's, also after a crash.
            self._copy_rest()
            self.log = Journal(self.work.journal, header, found)
        return self.start(self.confirmed(found.done) if found is not None else ())

    def doubt(self) -> None:
        """See `Target.doubt`."""
        if self.parent is not None and self.parent.own:
            with contextlib.suppress(OSError, FormatError):
                recorded = state_file.read(self.work.target)
                if recorded is not None:
                    recorded.without_hints().write(self.work.target)

    def _record(self) -> None:
        """Let the target say that it holds a state of ours: its files go with it then."""
        if self.parent is None or not self.parent.own:
            return
        state = self.parent.state
        recorded = state_file.read(self.work.target)
        if recorded is not None and recorded.digest == state.digest:
            return
        if recorded is None and self.manifest.release(state).foreign:
            return  # somebody's own file that is not ours to remove
        made = state_file.make(self.manifest, state, self.package.url)
        made.with_hints(self.work.target).write(self.work.target)

    def _is_own(self, file: int) -> bool:
        """Whether writing to a file that an earlier run has left changes no other file."""
        path = self.result(file)
        while path != self.work.next:
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                found = None
            if found is not None:
                folder = path != self.result(file)
                kind = stat.S_ISDIR if folder else stat.S_ISREG
                if not kind(found.st_mode) or not found.st_mode & stat.S_IWUSR:
                    return False
                if found.st_nlink > 1 and not folder:
                    return False
            path = path.parent
        return True

    def _make_file(self, file: int) -> None:
        path = self.result(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.open_file(path, "ab") as made:
            made.truncate(self.release.files[file].size)

    def _copy_rest(self) -> None:
        if self.source is None:
            return
        changed = set(self.changed)
        held = all_spans(self.chunks, self.layout)
        key = self.update.index.key
        found = copies(held, self.map, self.model, self.source, key)
        with Opened(self.before) as source, Opened(self.result, "rb+") as target:
            for part in found:
                if part.file in changed:
                    self.package.stop.check()
                    files.copy_range(
                        source[part.source_file],
                        part.source_offset,
                        target[part.file],
                        part.offset,
                        part.size,
                    )

    def write(self, bundle: Bundle, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        """See `Target.write`. The journal's claims are checked, so nothing is synced here."""
        assert self.log is not None
        with disk_errors(self.work.next):
            with Opened(self.result, "rb+") as opened:
                for span, buffer in zip(spans, buffers, strict=True):
                    files.write_at(opened[span.file], span.offset, buffer)
            self.log.done(bundle.number, checksum(buffers))

    def finish(self) -> None:
        """See `Target.finish`."""
        assert self.log is not None
        self.complete_all()
        with disk_errors(self.work.path):
            for file in sorted(set(range(len(self.release.files))).difference(self.changed)):
                self._keep_file(file)
            keep_modes(self.release, self.work)
            made = state_file.make(self.manifest, self.state, self.package.url)
            made.with_hints(self.work.next).write_new(self.work.next)
            durable.sync_folders(self.work.next)
            self.log.ready()
            self.work.swap()
            self.log.close()
            self.work.journal.unlink()

    def _keep_file(self, file: int) -> None:
        """A file that the source has at the same path, with the same bytes."""
        assert self.parent is not None
        paths = [f.path for f in self.manifest.release(self.parent.state).files]
        before = self.before(paths.index(self.release.files[file].path)).resolve()
        path = self.result(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.parent.own:
            files.link_or_copy(before, path)
        else:  # what is not the target's must not change with it
            path.unlink(missing_ok=True)
            shutil.copyfile(before, path)
