"""Fetch and check the bundles of one run, with several threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2u.client.transfer.bundles import Bundle, Wanted
from p2u.client.transfer.digests import pairs_are_faster, wrong
from p2u.client.transfer.requests import Request, plan_requests
from p2u.client.transfer.streams import Pieces, RequestStreams
from p2u.errors import Cancelled, IntegrityError, StoreError
from p2u.package.geometry import Chunk

if TYPE_CHECKING:
    from p2u.client.transfer.fetch import Fetcher

#: Most bytes of two bundles of one chunk each that are hashed together.
PAIRED = 2 << 20
#: Fewest bytes of a part of a chunk.
MIN_PART = 64 << 10
#: Seconds on the whole link from which on a bundle is shared at the end of a run.
WORTH_SHARING = 0.05
#: Seconds before the last bytes of a run come that the next one may be begun.
AHEAD = 0.05

HINT = "The package is damaged or was replaced while it was read; try again or use a mirror"

#: Takes the payloads of a bundle, whose digests are right, in any thread.
Apply = Callable[[Bundle, Sequence[memoryview]], None]


class _EnoughError(Exception):
    """The caller wants no more of this run."""


class _WrongHashError(Exception):
    """A chunk of the bundle at the head of the queue does not have its digest."""

    def __init__(self, update: int, chunk: Chunk) -> None:
        super().__init__()
        self.update = update
        self.chunk = chunk


class _Received:
    """A bundle, and memory for those of its payloads that are to be fetched.

    Attributes:
        missing: The chunks to fetch, each with its update's place and its memory.
    """

    def __init__(self, wanted: Wanted, bundle: Bundle, memory: memoryview) -> None:
        self.bundle = bundle
        self.missing: list[tuple[int, Chunk, memoryview]] = []
        self._held = wanted.held
        for update, chunk in wanted.missing(bundle):
            self.missing.append((update, chunk, memory[: chunk.length]))
            memory = memory[chunk.length :]

    @property
    def length(self) -> int:
        """Bytes to fetch."""
        return sum(chunk.length for _, chunk, _ in self.missing)

    @property
    def payloads(self) -> list[memoryview]:
        """All payloads of the bundle."""
        fetched = {update: memory for update, _, memory in self.missing}
        return [
            fetched[update] if update in fetched else memoryview(self._held[update, chunk.number])
            for update, chunk in zip(self.bundle.updates, self.bundle.chunks, strict=True)
        ]

    def drop(self) -> None:
        """Free the payloads that were held."""
        for update, chunk in zip(self.bundle.updates, self.bundle.chunks, strict=True):
            self._held.pop((update, chunk.number), None)


@dataclass(eq=False, slots=True)
class _Shared:
    """A bundle that several threads fetch, each a part of it, and the number of parts missing."""

    received: _Received
    left: int


@dataclass(frozen=True, slots=True)
class _RequestPart:
    """Bytes ``begin`` to ``end`` of the payload of a shared bundle's chunk."""

    shared: _Shared
    place: int
    begin: int
    end: int


class Run:
    """One call of `Fetcher.run`, or the beginning of the next one.

    Threads of the run before may `work` on it, up to the point where a bundle is applied: there
    they rest until `wait` says how.

    Args:
        fetcher: Whose run it is.
        wanted: The bundles.
    """

    def __init__(self, fetcher: Fetcher, wanted: Wanted) -> None:
        self.wanted = wanted
        self._f = fetcher
        self._payloads = fetcher.next_pool()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ranges = fetcher.store.supports_ranges
        if fetcher.store.knows_ranges:
            fetcher.probed.set()
        self._requests: deque[Request[Bundle] | _RequestPart] = deque(self._plan(wanted.bundles))
        #: Chunks that were wrong once, by their update's place and their number.
        self._suspects: set[tuple[int, int]] = set()
        self._apply: Apply | None = None
        self._patient = False
        #: Set when bundles may be applied, and when there is nothing more to wait for.
        self._ready = threading.Event()
        fetcher.stop.on_call(self._ready.set)
        self._enough = False
        self._left = len(wanted.bundles)
        #: Bytes to fetch, and those of them that are here and that are applied.
        self._size = wanted.size
        self._here = self._applied = 0
        self._working = 0
        self._idle = threading.Event()

    def _plan(self, bundles: Sequence[Bundle]) -> tuple[Request[Bundle], ...]:
        return plan_requests(
            bundles,
            self.wanted.missing,
            ranges=self._ranges,
            jobs=self._f.jobs,
            sizes=self._f.sizes,
            order=self.wanted.order,
        )

    def wait(self, apply: Apply, tick: Callable[[], bool | None], *, patient: bool) -> bool:
        """Do all of it, and raise what went wrong; whether all is done.

        With ``patient``, bytes gather before they are read: reading each packet costs several times
        the processor time, and a model's threads wait for the interpreter as often. When it
        returns, no thread calls ``apply`` any more.
        """
        self._patient = patient
        with self._lock:
            self._apply = apply
            more = min(self._f.jobs, len(self._requests) + self._working) - self._working
            first = self._working
            self._working += more
            if not self._working:
                self._idle.set()
        self._ready.set()
        for number in range(first, first + more):
            self._f.spawn(number, self._thread)
        try:
            while not self._idle.wait(0.1):
                if tick() is False:
                    self._enough = True
        except BaseException:
            # Ctrl-C, or an error of the caller's `tick`.
            self._f.stop.call()
            raise
        finally:
            self._idle.wait()
        tick()
        if self._error is not None:
            raise self._error
        return self._left == 0

    def enter(self) -> None:
        """A thread is about to work on this run, before `wait` is called."""
        with self._lock:
            self._working += 1

    def abandon(self) -> None:
        """Drop a run that was begun ahead."""
        self._enough = True
        self._ready.set()

    def _thread(self, number: int) -> None:
        run: Run | None = self
        while run is not None:
            run._work(number)
            run = self._f.run_ahead(run)

    def almost(self) -> None:
        """Return when the link is about to rest: the next run must not slow this one down."""
        while self._working and self._size - self._here > AHEAD * self._f.meter.rate():
            if self._enough or self._idle.wait(0.01):
                return

    def _work(self, number: int) -> None:
        """Take requests until none is left; the caller has counted this thread in ``_working``."""
        try:
            if number:
                # If nobody knows whether the server has ranges, the first answer will show it;
                # without them, each thread would fetch the same blob.
                self._f.probed.wait()
            while (request := self._next()) is not None:
                if isinstance(request, _RequestPart):
                    self._fetch_part(request)
                else:
                    self._fetch(request)
        except _EnoughError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            with self._lock:
                # Errors after the first one, or after a cancellation, follow from it.
                if self._error is None:
                    cancelled = self._f.stop.called and isinstance(error, StoreError)
                    self._error = Cancelled("the transfer was cancelled") if cancelled else error
                ahead = self._apply is None
            if not ahead:
                self._f.stop.call()
        finally:
            self._f.probed.set()
            with self._lock:
                self._working -= 1
                if self._working == 0:
                    # Bytes of bundles that were not applied are lost with their threads.
                    self._f.meter.add(self._applied - self._here)
                    self._here = self._applied
                    if self._apply is not None:
                        self._idle.set()

    def _next(self) -> Request[Bundle] | _RequestPart | None:
        self._check()
        with self._lock:
            if self._error is not None:
                return None
            if self._ranges and not self._f.store.supports_ranges:
                self._ranges = False
                self._replan()
            if not self._requests:
                return None
            request = self._requests.popleft()
            if isinstance(request, Request) and len(self._requests) < self._f.jobs - 1:
                return self._share(request)
            return request

    def _replan(self) -> None:
        """Ask for whole blobs, where no thread has begun."""
        parts = [r for r in self._requests if isinstance(r, _RequestPart)]
        left = [b for r in self._requests if isinstance(r, Request) for b in r.bundles]
        self._requests = deque((*parts, *self._plan(left)))

    def _share(self, request: Request[Bundle]) -> Request[Bundle] | _RequestPart:
        """At the end of a run threads would rest while one fetches the last bundle: divide it."""
        count = min(self._f.jobs, request.length // MIN_PART)
        slow = request.length > WORTH_SHARING * self._f.meter.rate()
        if len(request.bundles) > 1 or count < 2 or not slow or not self._ranges:
            return request
        bundle = request.bundles[0]
        missing = self.wanted.missing(bundle)
        if any((update, chunk.number) in self._suspects for update, chunk in missing):
            return request
        received = _Received(self.wanted, bundle, memoryview(bytearray(request.length)))
        shared = _Shared(received, 0)
        parts = []
        for place, (_, chunk) in enumerate(missing):
            share = max(1, round(count * chunk.length / request.length))
            ends = [chunk.length * (n + 1) // share for n in range(share)]
            pairs = zip([0, *ends], ends, strict=False)
            parts += [_RequestPart(shared, place, a, b) for a, b in pairs]
        shared.left = len(parts)
        self._requests.extendleft(reversed(parts[1:]))
        return parts[0]

    def _fetch(self, request: Request[Bundle]) -> None:
        """One request, continued after each failure from the first bundle that is missing."""
        todo = deque(request.bundles)
        failures = 0
        while todo:
            before = len(todo)
            try:
                self._stream(todo)
            except _WrongHashError as found:
                self._suspect(found)
            except StoreError as error:
                failures = 1 if len(todo) < before else failures + 1
                self._f.pause(error, failures)

    def _suspect(self, found: _WrongHashError) -> None:
        """Note a wrong chunk; raise IntegrityError if it was wrong before."""
        self._f.forget(found.chunk)
        self._f.meter.hash_failure()
        key = found.update, found.chunk.number
        if key in self._suspects:
            raise self._wrong(found.update, found.chunk) from None
        self._suspects.add(key)

    def _stream(self, todo: deque[Bundle]) -> None:
        """Fetch all bundles of ``todo``; pop each one applied."""
        chunks = [found for bundle in todo for found in self.wanted.missing(bundle)]
        whole = not self._f.store.supports_ranges
        with closing(RequestStreams(chunks, self._open, whole=whole)) as streams:
            while todo:
                batch = list(self._batch(todo))
                sizes = [sum(c.length for _, c in self.wanted.missing(b)) for b in batch]
                with self._payloads.lend(sum(sizes)) as memory:
                    self._receive(streams, batch, memory, todo)

    def _batch(self, todo: Sequence[Bundle]) -> Iterator[Bundle]:
        """The next bundle, or two that are hashed together."""
        yield todo[0]
        single = len(todo) > 1 and len(todo[0].chunks) == len(todo[1].chunks) == 1
        if single and todo[0].length + todo[1].length <= PAIRED and pairs_are_faster():
            yield todo[1]

    def _receive(
        self,
        streams: RequestStreams,
        batch: Sequence[Bundle],
        memory: memoryview,
        todo: deque[Bundle],
    ) -> None:
        """Read bundles and take them; after a failure, those that are complete."""
        complete: list[_Received] = []
        failure: StoreError | None = None
        for bundle in batch:
            received = _Received(self.wanted, bundle, memory)
            memory = memory[received.length :]
            here = []
            try:
                for update, chunk, out in received.missing:
                    streams.fill(update, chunk, out)
                    here.append((update, chunk, out))
            except StoreError as error:
                self._hold(here)
                failure = error
                break
            complete.append(received)
        self._take(complete, todo)
        if failure is not None:
            raise failure

    def _hold(self, here: Sequence[tuple[int, Chunk, memoryview]]) -> None:
        """Keep the payloads of a bundle whose other chunks did not come."""
        faults = wrong([(memory, chunk.sha256) for _, chunk, memory in here])
        for number, (update, chunk, memory) in enumerate(here):
            if number in faults:
                self._count(-chunk.length)
                continue
            self.wanted.held[update, chunk.number] = bytearray(memory)
            with self._lock:
                self._applied += chunk.length

    def _fetch_part(self, part: _RequestPart) -> None:
        """A part of a chunk; with the last one, the bundle is complete."""
        shared = part.shared
        update, chunk, memory = shared.received.missing[part.place]
        begin, end = chunk.start + part.begin, chunk.start + part.end
        failures = 0
        while True:
            try:
                with closing(self._open(update, chunk.blob, begin, end)) as pieces:
                    pieces.fill(memory[part.begin : part.end])
                break
            except StoreError as error:
                failures += 1
                self._f.pause(error, failures)
        with self._lock:
            shared.left -= 1
            if shared.left:
                return
        bundle = shared.received.bundle
        try:
            self._take([shared.received], deque([bundle]))
        except _WrongHashError as found:
            self._suspect(found)
            with self._lock:
                self._requests.append(Request((bundle,), shared.received.length))

    def _open(self, update: int, blob: int, start: int, end: int) -> Pieces:
        self._f.stop.check()
        self._f.meter.request()
        key = self.wanted.blobs[update][blob].key
        stream = self._f.store.stream(key, start, end - start)
        return Pieces(stream, self._arrived, self._count, lambda: self._patient)

    def _take(self, complete: Sequence[_Received], todo: deque[Bundle]) -> None:
        """Check bundles and apply them, when it is time for that; pop each one applied."""
        chunks = [found for received in complete for found in received.missing]
        faults = wrong([(memory, chunk.sha256) for _, chunk, memory in chunks])
        bad = [chunks[place][:2] for place in faults]
        for number, received in enumerate(complete):
            for update, chunk, _ in received.missing:
                if (update, chunk) in bad:
                    self._count(-sum(left.length for left in complete[number:]))
                    raise _WrongHashError(update, chunk)
            for _, chunk, memory in received.missing:
                self._f.keep(chunk, memory)
            self._ready.wait()
            self._check()
            assert self._apply is not None
            self._apply(received.bundle, received.payloads)
            with self._lock:
                self._left -= 1
                self._applied += received.length
            received.drop()
            todo.popleft()

    def _check(self) -> None:
        """Raise if this run is to end."""
        self._f.stop.check()
        if self._enough:
            raise _EnoughError

    def _arrived(self, count: int) -> None:
        """Note bytes that came, wanted or not."""
        self._f.meter.receive(count)
        self._f.probed.set()
        self._check()

    def _count(self, count: int) -> None:
        """Note bytes that were wanted; negative if they have to be fetched again."""
        with self._lock:
            self._here += count
        self._f.meter.add(count)

    def _wrong(self, update: int, chunk: Chunk) -> IntegrityError:
        return IntegrityError(
            f"bytes {chunk.start} to {chunk.start + chunk.length} (chunk {chunk.number}) do not "
            "have the SHA-256 that the index names, even after they were fetched again",
            file=self.wanted.blobs[update][chunk.blob].key,
            hint=HINT,
        )
