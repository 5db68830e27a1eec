"""The subscribers of a worker process: one per package, for the loader and the engine together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from p2u.adapters.sync.subscriber import Subscriber
from p2u.client.live.staged_version import StagedVersion


@dataclass(slots=True)
class PackageSource:
    """A package that a worker takes its weights from.

    Attributes:
        subscriber: Follows it.
        loaded: Digest of the state that the model has; None: unknown.
        version: Its version.
    """

    subscriber: Subscriber
    loaded: str | None = None
    version: str | None = None

    def note(self, staged: StagedVersion) -> None:
        """The model has a version now."""
        self.loaded, self.version = staged.digest, staged.version


_sources: dict[tuple[int, str], PackageSource] = {}


def source_of(url: str, *, cache: bool = True, jobs: int | None = None) -> PackageSource:
    """The source of a package, the same for each call in this process.

    Args:
        url: Path or URL of the package.
        cache: Of a package on another machine: fetch it once per machine, for all ranks. Of the
            first call.
        jobs: Threads, see `p2u.TransferOptions`. Of the first call.
    """
    key = os.getpid(), url
    if key not in _sources:
        _sources[key] = PackageSource(Subscriber(url, cache=cache, jobs=jobs))
    return _sources[key]


def close_source(source: PackageSource) -> None:
    """Close its subscriber; the next `source_of` opens another one."""
    for key, found in list(_sources.items()):
        if found is source:
            del _sources[key]
    source.subscriber.close()
