"""The engine ray: units of chunks as tasks; blobs written by tasks; the driver keeps the order.

A task that a dying worker or machine leaves is done again by another one, with the same result.
Payloads stay in Ray's object stores, from where the tasks that write blobs take them; the driver
sees their sizes.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from p2u.adapters.extras import check_library
from p2u.adapters.ray.cluster import RayCluster
from p2u.adapters.ray.tasks import Failed, UnitRequest, run_unit, versions, write_blob
from p2u.errors import WorkerError
from p2u.packing.engines.coded import HeldPayload, Payload
from p2u.packing.engines.engine import BlobStream, Engine, R, T, Work
from p2u.packing.engines.places import Place
from p2u.packing.settings import PackSettings

#: Bytes of the model that a task is about, and most items of a task.
UNIT, MOST_ITEMS = 32 << 20, 4096
#: Units under way, and blobs being written, for each worker.
UNITS_EACH, BLOBS_EACH = 2, 2
#: How often a task is begun again after its worker died.
RETRIES = 20
#: Bytes of results that a cluster of ours keeps in memory at least; more are on the disk.
LEAST_MEMORY = 256 << 20


def open_ray(settings: PackSettings) -> RayEngine:
    """The engine of a cluster; nothing is started before there is work.

    Raises:
        UnsupportedError: Ray is not installed.
        UsageError: The address is not valid.
    """
    check_library("ray", "ray", "the engine ray")
    from p2u.processors import processors

    workers = settings.engine.workers or processors()
    blobs = (len(settings.levels) + BLOBS_EACH * workers) * settings.blob_size
    memory = LEAST_MEMORY + 2 * UNITS_EACH * workers * UNIT + blobs
    cluster = RayCluster(settings.engine.workers, settings.engine.address, memory)
    return RayEngine(cluster)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Items under way."""

    items: tuple[Any, ...]
    refs: tuple[Any, ...]
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class _WrittenBlob:
    """A blob under way."""

    key: str
    ref: Any
    future: Future[Any]


class RayEngine(Engine):
    """See `Engine`.

    Args:
        cluster: The workers.
    """

    shares_memory = False

    def __init__(self, cluster: RayCluster) -> None:
        self._cluster = cluster
        self._writing: deque[_WrittenBlob] = deque()
        self._names: dict[str, str] = {}

    @property
    def workers(self) -> int:  # type: ignore[override]
        """See `Engine.workers`."""
        return self._cluster.workers

    def threads_each(self, items: int) -> int:
        """See `Engine.threads_each`; all in one machine."""
        return min(super().threads_each(items), self._cluster.largest)

    def run(
        self, work: Work[T, R], items: Iterable[T], budget: int
    ) -> Generator[tuple[T, R], None, None]:
        """See `Engine.run`; memory is bounded by the number and the size of units."""
        import ray

        self._cluster.start()
        held = ray.put(work)
        task = _remote(run_unit).options(
            num_cpus=work.threads, num_returns=1 + work.streams, max_retries=RETRIES
        )
        most = max(1, UNITS_EACH * self.workers // work.threads)
        waiting: deque[_Unit] = deque()
        try:
            for unit in _units(work, items):
                request = UnitRequest(held.hex(), [held], work.streams, versions(), unit)
                found = task.remote(request)
                refs = tuple(found) if work.streams else (found,)
                waiting.append(_Unit(unit, refs, refs[0].future()))
                if len(waiting) >= most:
                    yield from self._results(waiting.popleft())
            while waiting:
                yield from self._results(waiting.popleft())
        finally:
            if waiting:
                self._cancel([ref for unit in waiting for ref in unit.refs[:1]])

    def open_blob(self, place: Place, key: str) -> BlobStream:
        """See `Engine.open_blob`."""
        return _RayBlob(self, place, key)

    def write(self, place: Place, key: str, payloads: Sequence[Payload]) -> None:
        """Have a blob written."""
        parts: list[tuple[int, int, int]] = []
        held: list[Any] = []
        numbers: dict[Any, int] = {}
        for payload in payloads:
            if isinstance(payload, bytes):  # made here, of checksums
                numbers[id(payload)] = len(held)
                parts.append((len(held), 0, len(payload)))
                held.append(payload)
                continue
            if payload.held not in numbers:
                numbers[payload.held] = len(held)
                held.append(payload.held)
            parts.append((numbers[payload.held], payload.start, payload.size))
        self._cluster.start()
        task = _remote(write_blob).options(max_retries=RETRIES)
        ref = task.remote(pickle.dumps(place), key, parts, *held)
        self._writing.append(_WrittenBlob(key, ref, ref.future()))
        while len(self._writing) > BLOBS_EACH * self.workers:
            self._note(self._writing.popleft())

    def settle(self) -> dict[str, str]:
        """See `Engine.settle`."""
        while self._writing:
            self._note(self._writing.popleft())
        names, self._names = self._names, {}
        return names

    def close(self) -> None:
        """See `Engine.close`."""
        if self._writing:
            self._cancel([])
        self._cluster.close()

    def _results(self, unit: _Unit) -> Iterator[tuple[Any, Any]]:
        results = self._wait(unit.future)
        if len(unit.refs) == 1:
            yield from zip(unit.items, results, strict=True)
            return
        starts = [0] * (len(unit.refs) - 1)
        for item, (light, sizes) in zip(unit.items, results, strict=True):
            payloads = []
            for stream, size in enumerate(sizes):
                payloads.append(HeldPayload(unit.refs[1 + stream], starts[stream], size))
                starts[stream] += size
            yield item, replace(light, payloads=tuple(payloads))

    def _note(self, blob: _WrittenBlob) -> None:
        name = self._wait(blob.future)
        if name != blob.key:
            self._names[blob.key] = name

    def _wait(self, future: Future[Any]) -> Any:
        """The result of a task.

        A future is waited for rather than Ray itself, which drops exceptions of signal handlers.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            found = future.result()
        except RayTaskError as error:
            self._cancel([])
            raise error.cause from error
        except RayError as error:
            self._cancel([])
            raise WorkerError(
                f"a worker ended, again and again: {str(error).strip().splitlines()[0][:300]}",
                hint="It may lack memory: see docs/scale.md, and take fewer workers",
            ) from error
        if isinstance(found, Failed):
            self._cancel([])
            raise found.error
        return found

    def _cancel(self, refs: list[Any]) -> None:
        """End tasks, and all that writes blobs."""
        refs = [*refs, *(blob.ref for blob in self._writing)]
        self._writing.clear()
        if refs:
            self._cluster.cancel(refs)


class _RayBlob(BlobStream):
    """The payloads of a blob, until it is complete."""

    def __init__(self, engine: RayEngine, place: Place, key: str) -> None:
        self._engine = engine
        self._place = place
        self._key = key
        self._payloads: list[Payload] = []

    def add(self, payload: Payload) -> None:
        """See `BlobStream.add`."""
        self._payloads.append(payload)

    def finish(self) -> None:
        """See `BlobStream.finish`."""
        self._engine.write(self._place, self._key, self._payloads)
        self._payloads = []

    def close(self) -> None:
        """See `BlobStream.close`."""
        self._payloads = []


@lru_cache
def _remote(function: Callable[..., Any]) -> Any:
    """A function as Ray calls it; made once, because Ray sends each one to all workers."""
    import ray

    return ray.remote(function)


def _units(work: Work[T, Any], items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Items in turn, put together to units of about the same size."""
    unit: list[T] = []
    size = 0
    for item in items:
        more = work.size(item)
        if unit and (size + more > UNIT or len(unit) >= MOST_ITEMS):
            yield tuple(unit)
            unit, size = [], 0
        unit.append(item)
        size += more
    if unit:
        yield tuple(unit)
