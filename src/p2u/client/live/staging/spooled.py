"""Stage an update as verified chunks, decoded in the commit: little memory, a longer pause."""

from __future__ import annotations

import os
from collections.abc import Sequence

from p2u.client.live.low_priority import in_background
from p2u.client.live.staging.spool import Spool
from p2u.client.live.staging.staged_update import StagedUpdate, in_threads
from p2u.client.transfer.bundles import Bundle


class SpooledUpdate(StagedUpdate):
    """Payloads are kept, and decoded together in the commit: little memory, a longer pause."""

    name = "chunks"

    def begin(self) -> None:
        """See `StagedUpdate.begin`."""
        self._spool = Spool(self.tools)

    def take(self, bundle: Bundle, payloads: Sequence[memoryview]) -> None:
        """See `StagedUpdate.take`."""
        for key, payload in zip(self._keys(bundle), payloads, strict=True):
            self._spool.put(key, payload)

    def _keys(self, bundle: Bundle) -> list[int]:
        """The numbers of a bundle's payloads in the spool."""
        updates = len(self.stretch.updates)
        return [bundle.number * updates + update for update in bundle.updates]

    def complete(self, file: int) -> None:
        """Nothing can be checked before it is decoded."""

    def prepare(self) -> None:
        """See `complete`."""

    def commit(self) -> None:
        """See `StagedUpdate.commit`."""

        def run(bundle: Bundle) -> None:
            payloads = [self._spool.get(key) for key in self._keys(bundle)]
            self.decode(bundle, payloads, self.files.regions)

        in_threads(run, self.bundles, os.cpu_count() or 1)

    def finish(self) -> None:
        """See `StagedUpdate.finish`."""
        self._spool.close()
        in_background(super().prepare)
