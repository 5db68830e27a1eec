"""Fetch and check the chunks of one update, with several threads."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2u.client.transfer.control import Buffers
from p2u.client.transfer.requests import Request, plan_requests
from p2u.errors import Cancelled, IntegrityError, StoreError
from p2u.package.geometry import Chunk
from p2u.package.manifest import Blob

if TYPE_CHECKING:
    from p2u.client.transfer.fetch import Fetcher

#: Bytes of payloads that all threads together hold; a single larger chunk may exceed it.
IN_FLIGHT = 12 << 20
#: Fewest bytes of a part of a chunk.
MIN_PART = 64 << 10
#: Seconds on the whole link from which on a chunk is shared at the end of a run.
WORTH_SHARING = 0.05

#: Bytes worth a read of a patient run, and seconds in which they may gather.
PORTION, GATHER = 64 << 10, 0.01
#: Seconds before the last bytes of a run come that the next one may be begun.
AHEAD = 0.05

HINT = "The package is damaged or was replaced while it was read; try again or use a mirror"

#: Takes a payload whose hash is right, in any thread.
Apply = Callable[[Chunk, memoryview], None]


class _EnoughError(Exception):
    """The caller wants no more of this run."""


class _WrongHashError(Exception):
    """The chunk at the head of the queue does not have its hash."""


@dataclass(eq=False, slots=True)
class _Shared:
    """A chunk that several threads fetch, each a part of it."""

    chunk: Chunk
    left: int
    payload: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.payload = memoryview(bytearray(self.chunk.length))


@dataclass(frozen=True, slots=True)
class _RequestPart:
    """Bytes ``begin`` to ``end`` of a shared chunk's payload."""

    shared: _Shared
    begin: int
    end: int


class Run:
    """One call of `Fetcher.run`, or the beginning of the next one.

    Threads of the run before may `work` on it, up to the point where a chunk is applied: there
    they rest until `wait` says how.

    Args:
        fetcher: Whose run it is.
        blobs: The update's.
        chunks: Those missing.
    """

    def __init__(self, fetcher: Fetcher, blobs: Sequence[Blob], chunks: tuple[Chunk, ...]) -> None:
        self.chunks = chunks
        self._f = fetcher
        self._blobs = blobs
        self._payloads = Buffers(IN_FLIGHT, fetcher.stop)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ranges = fetcher.store.supports_ranges
        if fetcher.store.knows_ranges:
            fetcher.probed.set()
        self._requests: deque[Request[Chunk] | _RequestPart] = deque(
            plan_requests(chunks, ranges=self._ranges, jobs=fetcher.jobs, sizes=fetcher.sizes)
        )
        self._apply: Apply | None = None
        self._patient = False
        #: Set when chunks may be applied, and when there is nothing more to wait for.
        self._ready = threading.Event()
        fetcher.stop.on_call(self._ready.set)
        self._enough = False
        self._left = len(chunks)
        #: Bytes of chunks, and those of them that are here and that are applied.
        self._size = sum(chunk.length for chunk in chunks)
        self._here = self._applied = 0
        self._working = 0
        self._idle = threading.Event()

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
                    # Bytes of chunks that were not applied are lost with their threads.
                    self._f.meter.add(self._applied - self._here)
                    self._here = self._applied
                    if self._apply is not None:
                        self._idle.set()

    def _next(self) -> Request[Chunk] | _RequestPart | None:
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
        left = [c for r in self._requests if isinstance(r, Request) for c in r.chunks]
        self._requests = deque((*parts, *plan_requests(left, ranges=False)))

    def _share(self, request: Request[Chunk]) -> Request[Chunk] | _RequestPart:
        """At the end of a run threads would rest while one fetches the last chunk: divide it."""
        chunk = request.chunks[0]
        count = min(self._f.jobs, chunk.length // MIN_PART)
        slow = chunk.length > WORTH_SHARING * self._f.meter.rate()
        if len(request.chunks) > 1 or count < 2 or not slow or not self._ranges:
            return request
        shared = _Shared(chunk, count)
        ends = [chunk.length * (n + 1) // count for n in range(count)]
        parts = [_RequestPart(shared, a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self._requests.extendleft(reversed(parts[1:]))
        return parts[0]

    def _fetch(self, request: Request[Chunk]) -> None:
        """One request, continued after each failure from the first chunk that is missing."""
        todo = deque(request.chunks)
        start = request.start
        failures = 0
        suspect = -1
        while todo:
            before = len(todo)
            try:
                self._stream(request.blob, start, todo)
            except _WrongHashError:
                if todo[0].number == suspect:
                    raise self._wrong(todo[0]) from None
                suspect = todo[0].number
            except StoreError as error:
                failures = 1 if len(todo) < before else failures + 1
                self._f.pause(error, failures)
            if todo:
                start = todo[0].start if self._f.store.supports_ranges else 0

    def _stream(self, blob: int, start: int, todo: deque[Chunk]) -> None:
        """Fetch from ``start`` to the end of the last chunk of ``todo``; pop each one applied."""
        end = todo[-1].start + todo[-1].length
        pieces = self._open(blob, start, end)
        try:
            at = start
            while todo:
                chunk = todo[0]
                pieces.skip(chunk.start - at)
                at = chunk.start + chunk.length
                with self._payloads.lend(chunk.length) as payload:
                    pieces.fill(payload)
                    self._take(chunk, payload)
                todo.popleft()
        finally:
            pieces.close()

    def _fetch_part(self, part: _RequestPart) -> None:
        """A part of a chunk; with the last one, the chunk is complete."""
        shared, chunk = part.shared, part.shared.chunk
        failures = 0
        while True:
            try:
                pieces = self._open(chunk.blob, chunk.start + part.begin, chunk.start + part.end)
                try:
                    pieces.fill(shared.payload[part.begin : part.end])
                finally:
                    pieces.close()
                break
            except StoreError as error:
                failures += 1
                self._f.pause(error, failures)
        with self._lock:
            shared.left -= 1
            if shared.left:
                return
        try:
            self._take(chunk, shared.payload)
        except _WrongHashError:
            with self._lock:
                self._requests.append(Request(chunk.blob, chunk.start, chunk.length, (chunk,)))

    def _open(self, blob: int, start: int, end: int) -> _Pieces:
        self._f.stop.check()
        self._f.meter.request()
        stream = self._f.store.stream(self._blobs[blob].key, start, end - start)
        return _Pieces(stream, self._arrived, self._count, lambda: self._patient)

    def _take(self, chunk: Chunk, payload: memoryview) -> None:
        """Check and apply a chunk, when it is time for that."""
        if hashlib.sha256(payload).digest() != chunk.sha256:
            self._count(-chunk.length)
            raise _WrongHashError
        self._ready.wait()
        self._check()
        assert self._apply is not None
        self._apply(chunk, payload)
        with self._lock:
            self._left -= 1
            self._applied += chunk.length

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

    def _wrong(self, chunk: Chunk) -> IntegrityError:
        return IntegrityError(
            f"bytes {chunk.start} to {chunk.start + chunk.length} (chunk {chunk.number}) do not "
            "have the SHA-256 that the index names, even after they were fetched again",
            file=self._blobs[chunk.blob].key,
            hint=HINT,
        )


class _Pieces:
    """A stream of pieces, read in other portions."""

    def __init__(
        self,
        pieces: Generator[bytes, None, None],
        arrived: Callable[[int], None],
        count: Callable[[int], None],
        patient: Callable[[], bool],
    ) -> None:
        self._source = pieces
        self._arrived = arrived
        self._count = count
        self._patient = patient
        self._short = False
        self._rest = memoryview(b"")

    def skip(self, count: int) -> None:
        """Drop bytes."""
        while count:
            count -= len(self._some(count))

    def fill(self, out: memoryview) -> None:
        """The next bytes, counted as progress; not counted if they do not all come."""
        at = 0
        try:
            while at < len(out):
                piece = self._some(len(out) - at)
                out[at : at + len(piece)] = piece
                at += len(piece)
                self._count(len(piece))
        except BaseException:
            self._count(-at)
            raise

    def _some(self, most: int) -> memoryview:
        if not self._rest:
            if self._short and self._patient():
                time.sleep(GATHER)
            piece = next(self._source, b"")
            self._short = len(piece) < PORTION
            if not piece:
                raise StoreError("the stream ended early", retryable=True)
            self._arrived(len(piece))
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    def close(self) -> None:
        """Free the connection."""
        self._source.close()
