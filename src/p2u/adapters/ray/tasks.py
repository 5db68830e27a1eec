"""The tasks that a worker of the engine ray does."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from p2u.errors import P2UError, WorkerError
from p2u.packing.engines.coded import Coded
from p2u.packing.engines.engine import StartedWork
from p2u.packing.engines.places import Place

#: Kinds of work that a worker keeps: those whose results feed each other.
KEPT = 2

_started: OrderedDict[str, StartedWork[Any, Any]] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Failed:
    """The error that ended a task: a result, so that Ray does not wrap it."""

    error: P2UError


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """Some items of one kind of work.

    Attributes:
        key: Of the kind.
        work: The object that holds it, in a list, so that Ray does not fetch it each time.
        streams: See `Work.streams`.
        versions: Of what the bytes depend on, where the package is made.
        items: The items.
    """

    key: str
    work: list[Any]
    streams: int
    versions: tuple[str, ...]
    items: tuple[Any, ...]


def versions() -> tuple[str, ...]:
    """The versions that a package's bytes depend on."""
    import zstandard

    from p2u.version import __version__

    return f"P2U {__version__}", f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"


def run_unit(request: UnitRequest) -> Any:
    """Do some items.

    Returns:
        The results, or `Failed`. With streams a tuple of that and of one array for each stream: the
        payloads of the results back to back, which have their sizes instead.
    """
    try:
        _check_versions(request.versions)
        work = _start(request)
        results = [work.run(item) for item in request.items]
    except P2UError as error:
        failed = Failed(error)
        return (failed, *[b""] * request.streams) if request.streams else failed
    return _split(results, request.streams) if request.streams else results


def write_blob(place: bytes, key: str, parts: Sequence[tuple[int, int, int]], *held: Any) -> Any:
    """Write a blob.

    Args:
        place: Where to, pickled.
        key: Of the blob.
        parts: Its payloads: the number of one of ``held``, its offset there, and its bytes.
        held: Payloads back to back, as `run_unit` returns them.

    Returns:
        The key that it became, or `Failed`.
    """
    views = [memoryview(one).cast("B") for one in held]
    try:
        return _place(place).write(key, [views[n][at : at + size] for n, at, size in parts])
    except P2UError as error:
        return Failed(error)


def _check_versions(wanted: tuple[str, ...]) -> None:
    here = versions()
    if here != wanted:
        raise WorkerError(
            f"a worker has {', '.join(here)}, but this process {', '.join(wanted)}",
            hint="Install the same versions on all machines: other ones may make other bytes",
        )


def _start(request: UnitRequest) -> StartedWork[Any, Any]:
    if request.key not in _started:
        import ray

        while len(_started) >= KEPT:
            _started.popitem(last=False)
        _started[request.key] = ray.get(request.work[0]).start()
    _started.move_to_end(request.key)
    return _started[request.key]


def _split(results: list[Coded[bytes]], streams: int) -> tuple[Any, ...]:
    """Results with the sizes of their payloads, and the payloads of each stream."""
    import numpy as np

    found: list[list[bytes]] = [[] for _ in range(streams)]
    for result in results:
        for stream, payload in zip(found, result.payloads, strict=False):
            stream.append(payload)
    light = [(replace(r, payloads=()), tuple(map(len, r.payloads))) for r in results]
    results.clear()
    arrays = []
    for stream in found:
        # Arrays are read where they are, bytes are copied by each reader.
        arrays.append(np.frombuffer(b"".join(stream), np.uint8))
        stream.clear()
    return (light, *arrays)


@lru_cache(maxsize=2)
def _place(pickled: bytes) -> Place:
    found: Place = pickle.loads(pickled)
    return found
