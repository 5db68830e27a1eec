"""Fetch objects and chunks, with retries; only checked bytes leave this module."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from itertools import cycle
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, TypeVar

from p2u.client.transfer.bundles import Wanted
from p2u.client.transfer.control import Buffers, Meter, Stop
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.run import HINT, Apply, Run
from p2u.errors import IntegrityError, StoreError
from p2u.package.geometry import Chunk
from p2u.package.manifest import Object
from p2u.stores import Store
from p2u.stores.backoff import Retry

if TYPE_CHECKING:
    from p2u.cache.store import CachedStore

#: Bytes of payloads that all threads of a run together hold; a single larger bundle may exceed it.
IN_FLIGHT = 12 << 20

#: Seconds between two reports of failures after which it is tried again.
REPORT_EVERY = 5.0
_log = logging.getLogger("p2u.retry")

T = TypeVar("T")

#: Gives what the next run will probably fetch.
Following = Callable[[], Wanted]


class Fetcher:
    """Reads a store with several threads.

    Args:
        store: The package.
        options: Threads, retries, sizes of requests.
        stop: Ends everything early.
        meter: Counts what arrives.
    """

    def __init__(self, store: Store, options: TransferOptions, stop: Stop, meter: Meter) -> None:
        self.store = store
        #: The store, if it is one with a cache.
        self.cached: CachedStore | None = None
        self.jobs = options.threads(remote=store.remote)
        self.sizes = options.request_sizes
        self.stop = stop
        self.meter = meter
        self.retry = options.retry or Retry()
        #: Set when the first bytes have come: the store knows now whether there are ranges.
        self.probed = Event()
        self._lock = Lock()
        self._current: Run | None = None
        self._following: Following | None = None
        self._ahead: Run | None = None
        self._threads: list[Thread] = []
        #: The last failure, and the bytes that had come until then.
        self._failure: tuple[StoreError, int] | None = None
        #: When the next failure may be reported, by `time.monotonic`.
        self._report_from = 0.0
        #: Not `_lock`: its holder may wait for what a thread reads that has a failure to report.
        self._report_lock = Lock()
        #: Memory for payloads. A run must not wait for what the one begun ahead of it holds.
        self._pools = cycle([Buffers(IN_FLIGHT, stop), Buffers(IN_FLIGHT, stop)])

    def read(self, key: str, limit: int) -> bytes:
        """A small object of unknown size, with retries."""
        data = self._request(lambda: self.store.read(key, limit=limit))
        self.meter.receive(len(data))
        return data

    def poll(self, key: str, limit: int, mark: str) -> tuple[bytes | None, str]:
        """See `Store.poll`, with retries."""
        data, mark = self._request(lambda: self.store.poll(key, limit=limit, mark=mark))
        self.meter.receive(len(data or b""))
        return data, mark

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
            self.meter.hash_failure()
        raise IntegrityError(
            f"{len(data)} bytes with SHA-256 {digest}, expected {wanted.size} bytes with "
            f"{wanted.sha256}",
            file=wanted.key,
            hint=HINT,
        )

    def probe(self, key: str, at: int) -> None:
        """Read one byte of an object, with retries, to see that it is there."""

        def read() -> None:
            with contextlib.closing(self.store.stream(key, at, 1)) as pieces:
                for piece in pieces:
                    self.meter.receive(len(piece))

        self._request(read)

    def _request(self, call: Callable[[], T]) -> T:
        """The result of a request, which is made again after failures."""
        failures = 0
        while True:
            self.stop.check()
            try:
                self.meter.request()
                return call()
            except StoreError as error:
                failures += 1
                self.pause(error, failures)

    def pause(self, error: StoreError, failures: int) -> None:
        """Sleep before the next try; raises the error when there is to be none."""
        self.stop.check()
        self._failure = error, self.meter.received
        if not error.retryable or failures >= self.retry.attempts:
            raise error
        if (error.retry_after or 0.0) > self.retry.most_asked:
            raise error
        seconds = self.retry.delay(failures, error.retry_after)
        self.meter.retry()
        self._report(error, failures, seconds)
        self.stop.sleep(seconds)

    @property
    def failure(self) -> StoreError | None:
        """The failure after which nothing has come yet."""
        if self._failure is None or self._failure[1] != self.meter.received:
            return None
        return self._failure[0]

    def _report(self, error: StoreError, failures: int, seconds: float) -> None:
        """Log a failure that a try follows: the first one, and now and then one of those after."""
        now = time.monotonic()
        with self._report_lock:
            if now < self._report_from:
                return
            self._report_from = now + REPORT_EVERY
        of = f"{failures} of {self.retry.attempts - 1}"
        fields = {"event": "retry", "file": error.file, "seconds": round(seconds, 3)}
        extra = {"p2u": fields}
        _log.warning("%s; trying again in %.1f s (%s)", error, seconds, of, extra=extra)

    def run(
        self,
        wanted: Wanted,
        apply: Apply,
        tick: Callable[[], bool | None] = lambda: None,
        following: Following | None = None,
        *,
        patient: bool = False,
    ) -> bool:
        """Fetch bundles and pass each to ``apply`` once, roughly in order.

        Args:
            wanted: The bundles.
            apply: Called in several threads at once; an error from it ends the run.
            tick: Called about ten times a second in this thread; False ends the run early.
            following: What the next run will probably fetch; asked in a thread that has nothing
                left to do, which begins to fetch it, so that the link does not rest between two
                runs.
            patient: See `Run.wait`.

        Returns:
            Whether all bundles were applied.

        Raises:
            Cancelled: ``stop`` was called.
            IntegrityError: A chunk is wrong, and was so again when fetched anew.
            StoreError: The store failed for good.
        """
        run = self._begin(wanted, following)
        complete = False
        try:
            complete = not wanted.bundles or run.wait(apply, tick, patient=patient)
        finally:
            if not complete:
                self._end()
        self.stop.check()
        return complete

    def _begin(self, wanted: Wanted, following: Following | None) -> Run:
        """The run of these bundles, which threads of the one before may have begun."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
            if ahead is None or not ahead.wanted.same(wanted):
                if ahead is not None:
                    ahead.abandon()
                ahead = Run(self, wanted)
            self._current, self._following = ahead, following
            return ahead

    def run_ahead(self, run: Run) -> Run | None:
        """The run that follows one whose requests are all taken; None if there is none to begin.

        For threads of `Run`.
        """
        if run is not self._current or self._following is None:
            return None
        run.almost()
        with self._lock:
            if run is not self._current or self._following is None:
                return None
            if self._ahead is None:
                try:
                    self._ahead = Run(self, self._following())
                except BaseException:  # noqa: BLE001 - whoever needs it meets the same error
                    self._following = None
                    return None
            self._ahead.enter()
            return self._ahead

    def keep(self, chunk: Chunk, payload: memoryview) -> None:
        """A payload has the digest of its chunk."""
        if self.cached is not None:
            self.cached.keep(chunk.sha256.hex(), payload)

    def forget(self, chunk: Chunk) -> None:
        """A payload does not have the digest of its chunk."""
        if self.cached is not None:
            self.cached.forget(chunk.sha256.hex())

    def next_pool(self) -> Buffers:
        """The memory for the payloads of the next run."""
        return next(self._pools)

    def spawn(self, number: int, work: Callable[[int], None]) -> None:
        """Start a thread that `close` waits for."""
        thread = Thread(target=work, args=(number,), daemon=True, name=f"p2u-{number}")
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Wait until no thread uses the store, which has been closed."""
        self._end()
        for thread in self._threads:
            thread.join()

    def _end(self) -> None:
        """Nothing follows."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
            self._current = self._following = None
        if ahead is not None:
            ahead.abandon()
