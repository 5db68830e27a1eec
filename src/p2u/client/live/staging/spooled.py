"""Stage an update as verified chunks, decoded in the commit: little memory, a longer pause."""

from __future__ import annotations

import os

from p2u.client.live.low_priority import in_background
from p2u.client.live.staging.spool import Spool
from p2u.client.live.staging.staged_update import StagedUpdate, in_threads
from p2u.package.geometry import Chunk


class SpooledUpdate(StagedUpdate):
    """Payloads are kept, and decoded together in the commit: little memory, a longer pause."""

    name = "chunks"

    def begin(self) -> None:
        """See `StagedUpdate.begin`."""
        self._spool = Spool(self.tools)

    def take(self, chunk: Chunk, payload: memoryview) -> None:
        """See `StagedUpdate.take`."""
        self._spool.put(chunk.number, payload)

    def complete(self, file: int) -> None:
        """Nothing can be checked before it is decoded."""

    def prepare(self) -> None:
        """See `complete`."""

    def commit(self) -> None:
        """See `StagedUpdate.commit`."""

        def run(chunk: Chunk) -> None:
            self.decode(chunk, self._spool.get(chunk.number), self.files.memory)

        in_threads(run, self.chunks, os.cpu_count() or 1)

    def finish(self) -> None:
        """See `StagedUpdate.finish`."""
        self._spool.close()
        in_background(super().prepare)
