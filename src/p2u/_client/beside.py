"""The default way: the next state is built beside the target and takes its place when complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from p2u._client import statefile
from p2u._client.files import (
    copy_range,
    disk_errors,
    link_or_copy,
    open_file,
    remove_tree,
    sync_dir,
    write_at,
)
from p2u._client.journal import DIGEST, Journal, read_journal
from p2u._client.package import Span, chunk_spans
from p2u._client.target import Opened, Target, journal_header
from p2u.index import Chunk


class Beside(Target):
    """Builds ``next`` in the work folder from the target's files and the chunks."""

    def source_folder(self) -> Path:
        """The target, which is the previous state as long as we build."""
        return self.work.target

    def result_folder(self) -> Path:
        """The state being built."""
        return self.work.next

    def prepare(self) -> list[Chunk]:
        """See `Target.prepare`."""
        header = journal_header(self.manifest, self.update, in_place=False)
        with disk_errors(self.work.path):
            found = read_journal(self.work.journal)
            again = found is not None and found.header == header
            if not again:
                found = None
                self.work.journal.unlink(missing_ok=True)
                remove_tree(self.work.redo)
                remove_tree(self.work.next)
            for file in self.changed:
                self._make_file(file)
            # Bytes that no chunk brings are the previous state's, also after a crash.
            if self.update.source is not None:
                self._copy_rest()
            self.log = Journal(self.work.journal, header, found)
        done = self.confirmed(found.done) if found is not None else {}
        self.package.meter.add(sum(self.chunks[n].length for n in done))
        missing = [chunk for chunk in self.chunks if chunk.number not in done]
        self.start(missing)
        return missing

    def _make_file(self, file: int) -> None:
        path = self.path(self.work.next, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as made:
            made.truncate(self.release.files[file].size)

    def _copy_rest(self) -> None:
        covered: dict[int, list[tuple[int, int]]] = {}
        for chunk in self.chunks:
            for span in chunk_spans(chunk, self.layout):
                covered.setdefault(span.file, []).append((span.offset, span.offset + span.size))
        for file in self.changed:
            size = self.release.files[file].size
            with (
                open_file(self.path(self.work.target, file), "rb") as source,
                open_file(self.path(self.work.next, file), "rb+") as target,
            ):
                at = 0
                for start, end in [*sorted(covered.get(file, ())), (size, size)]:
                    self.package.stop.check()
                    if start > at:
                        copy_range(source, target, at, start - at)
                    at = end

    def write(
        self, chunk: Chunk, spans: Sequence[Span], buffers: Sequence[memoryview], digest: bytes
    ) -> None:
        """See `Target.write`. The journal's claims are checked, so nothing is synced here."""
        assert self.log is not None
        with disk_errors(self.work.next):
            with Opened(self, True, "rb+") as opened:
                for span, buffer in zip(spans, buffers, strict=True):
                    write_at(opened[span.file], span.offset, buffer)
            self.log.done(chunk.number, digest[:DIGEST])

    def finish(self) -> None:
        """See `Target.finish`."""
        assert self.log is not None
        self.check_all()
        with disk_errors(self.work.path):
            changed = set(self.changed)
            for file in range(len(self.release.files)):
                if file not in changed:
                    path = self.path(self.work.next, file)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(self.path(self.work.target, file).resolve(), path)
            made = statefile.make(self.manifest, self.state, self.package.url)
            made.with_hints(self.work.next).write(self.work.next)
            for folder, _, _ in os.walk(self.work.next):
                sync_dir(Path(folder))
            self.log.ready()
            self.work.swap()
            self.log.close()
            self.work.journal.unlink()

    def discard(self) -> None:
        """See `Target.discard`."""
        with contextlib.suppress(OSError):
            self.work.journal.unlink()
