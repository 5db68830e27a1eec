"""Fetching chunks: threads, retries, checks. Nothing leaves here with a wrong hash."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from p2u._client.control import Buffers, Meter, Stop
from p2u.errors import Cancelled, IntegrityError, StoreError
from p2u.index import Chunk
from p2u.manifest import Blob, Object
from p2u.plan import Request, plan_requests, request_size
from p2u.stores import Store

#: Bytes of payloads that all threads together hold; a single larger chunk may exceed it.
IN_FLIGHT = 12 << 20

#: What a caller does with a payload whose hash is right, in any thread.
Apply = Callable[[Chunk, memoryview], None]

HINT = "The package is damaged or was replaced while it was read; try again or use a mirror"


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again.

    Attributes:
        attempts: Tries without any progress after which the error is passed on.
        base: Seconds to wait after the first failure; doubles each time.
        cap: Most seconds to wait, unless the server asks for more.
    """

    attempts: int = 8
    base: float = 0.5
    cap: float = 30.0

    def delay(self, failures: int, asked: float | None) -> float:
        """Seconds to wait after so many failures in a row."""
        longest = min(self.cap, self.base * 2.0 ** (failures - 1))
        # Jitter, so that a crowd of clients does not come back at the same moment.
        return max(longest * random.uniform(0.5, 1.0), asked or 0.0)


class Fetcher:
    """Reads a store with several threads.

    Args:
        store: The package.
        jobs: Number of threads.
        stop: Ends everything early.
        meter: Counts what arrives.
        retry: When to try again.
    """

    def __init__(
        self, store: Store, jobs: int, stop: Stop, meter: Meter, retry: Retry | None = None
    ) -> None:
        self.store = store
        self.jobs = jobs
        self.stop = stop
        self.meter = meter
        self.retry = retry or Retry()
        self.payloads = Buffers(IN_FLIGHT, stop)
        #: Set when the first bytes have come: the store knows now whether there are ranges.
        self.probed = threading.Event()

    def read(self, key: str, limit: int) -> bytes:
        """A small object of unknown size, with retries."""
        failures = 0
        while True:
            self.stop.check()
            try:
                self.meter.request()
                data = self.store.read(key, limit=limit)
            except StoreError as error:
                failures += 1
                self.pause(error, failures)
                continue
            self.meter.receive(len(data))
            return data

    def read_object(self, wanted: Object) -> bytes:
        """A small object, its size and digest checked.

        Raises:
            IntegrityError: It is wrong, and was so again when fetched anew.
        """
        for _ in range(2):
            data = self.read(wanted.key, wanted.size + 1)
            digest = hashlib.sha256(data).hexdigest()
            if len(data) == wanted.size and digest == wanted.sha256:
                return data
        raise IntegrityError(
            f"{len(data)} bytes with SHA-256 {digest}, expected {wanted.size} bytes with "
            f"{wanted.sha256}",
            file=wanted.key,
            hint=HINT,
        )

    def pause(self, error: StoreError, failures: int) -> None:
        """Sleep before the next try; raises the error when there is to be none."""
        self.stop.check()
        if not error.retryable or failures >= self.retry.attempts:
            raise error
        self.stop.sleep(self.retry.delay(failures, error.retry_after))

    def run(
        self,
        blobs: Sequence[Blob],
        chunks: Sequence[Chunk],
        apply: Apply,
        tick: Callable[[], bool | None] = lambda: None,
    ) -> bool:
        """Fetch chunks of one update and pass each to ``apply`` once, roughly in order.

        Args:
            blobs: The update's.
            chunks: Those missing.
            apply: Called in several threads at once; an error from it ends the run.
            tick: Called about ten times a second in this thread; False ends the run early.

        Returns:
            Whether all chunks were applied.

        Raises:
            Cancelled: ``stop`` was called.
            IntegrityError: A chunk is wrong, and was so again when fetched anew.
            StoreError: The store failed for good.
        """
        complete = not chunks or _Run(self, blobs, chunks, apply).wait(tick)
        self.stop.check()
        return complete


class _EnoughError(Exception):
    """The caller wants no more of this run."""


class _WrongHashError(Exception):
    """The chunk at the head of the queue does not have its hash."""


class _Run:
    """One call of `Fetcher.run`."""

    def __init__(
        self, fetcher: Fetcher, blobs: Sequence[Blob], chunks: Sequence[Chunk], apply: Apply
    ) -> None:
        self._f = fetcher
        self._blobs = blobs
        self._apply = apply
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ranges = fetcher.store.supports_ranges
        size = request_size(sum(c.length for c in chunks), fetcher.jobs)
        self._requests = deque(plan_requests(chunks, ranges=self._ranges, max_bytes=size))
        count = min(fetcher.jobs, len(self._requests))
        self._ended = threading.Event()
        self._enough = False
        self._left = len(chunks)
        self._running = count
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True, name=f"p2u-{number}")
            for number in range(count)
        ]

    def wait(self, tick: Callable[[], bool | None]) -> bool:
        """Run the threads to their end, and raise what went wrong; whether all is done."""
        for thread in self._threads:
            thread.start()
        try:
            while not self._ended.wait(0.1):
                if tick() is False:
                    self._enough = True
        except BaseException:
            # Ctrl-C, or an error of the caller's `tick`.
            self._f.stop.call()
            raise
        finally:
            # No thread may touch a file after this.
            for thread in self._threads:
                thread.join()
        tick()
        if self._error is not None:
            raise self._error
        return self._left == 0

    def _work(self, number: int) -> None:
        try:
            if number:
                # The first request tells whether the server knows ranges; without them, each
                # thread would fetch the same blob.
                self._f.probed.wait()
            while (request := self._next()) is not None:
                self._fetch(request)
        except _EnoughError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            with self._lock:
                # What comes after the first error, or a cancellation, follows from it.
                if self._error is None:
                    cancelled = self._f.stop.called and isinstance(error, StoreError)
                    self._error = Cancelled("the transfer was cancelled") if cancelled else error
            self._f.stop.call()
        finally:
            self._f.probed.set()
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._ended.set()

    def _next(self) -> Request[Chunk] | None:
        self.check()
        with self._lock:
            if self._ranges and not self._f.store.supports_ranges:
                self._ranges = False
                left = [chunk for request in self._requests for chunk in request.chunks]
                self._requests = deque(plan_requests(left, ranges=False))
            return self._requests.popleft() if self._requests else None

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
        self._f.stop.check()
        self._f.meter.request()
        pieces = _Pieces(self._f.store.stream(self._blobs[blob].key, start, end - start), self)
        try:
            at = start
            while todo:
                chunk = todo[0]
                pieces.skip(chunk.start - at)
                at = chunk.start + chunk.length
                with self._f.payloads.lend(chunk.length) as payload:
                    pieces.fill(payload)
                    if hashlib.sha256(payload).digest() != chunk.sha256:
                        self._f.meter.add(-chunk.length)
                        raise _WrongHashError
                    self._apply(chunk, payload)
                todo.popleft()
                with self._lock:
                    self._left -= 1
        finally:
            pieces.close()

    def check(self) -> None:
        """Raise if this run is to end."""
        self._f.stop.check()
        if self._enough:
            raise _EnoughError

    def arrived(self, count: int) -> None:
        """Pieces call this for all that comes."""
        self._f.meter.receive(count)
        self._f.probed.set()
        self.check()

    def count(self, count: int) -> None:
        """Pieces call this for what was wanted."""
        self._f.meter.add(count)

    def _wrong(self, chunk: Chunk) -> IntegrityError:
        return IntegrityError(
            f"bytes {chunk.start} to {chunk.start + chunk.length} (chunk {chunk.number}) do not "
            "have the SHA-256 that the index states, not even when fetched again",
            file=self._blobs[chunk.blob].key,
            hint=HINT,
        )


class _Pieces:
    """A stream of pieces, read in other portions."""

    def __init__(self, pieces: Generator[bytes, None, None], run: _Run) -> None:
        self._source = pieces
        self._run = run
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
                self._run.count(len(piece))
        except BaseException:
            self._run.count(-at)
            raise

    def _some(self, most: int) -> memoryview:
        if not self._rest:
            piece = next(self._source, b"")
            if not piece:
                raise StoreError("the stream ended early", retryable=True)
            self._run.arrived(len(piece))
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    def close(self) -> None:
        """Free the connection."""
        self._source.close()
