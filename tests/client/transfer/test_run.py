"""Runs of chunks: shared at the end, and the next one begun ahead."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from waiting import until

from p2u.client.transfer.bundles import Wanted
from p2u.client.transfer.control import Meter, Stop
from p2u.client.transfer.fetch import Fetcher
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.run import MIN_PART
from p2u.errors import StoreError
from p2u.package.geometry import Chunk
from p2u.package.manifest import Blob
from p2u.stores import Store
from p2u.stores.backoff import Retry

KIB = 1 << 10


class Memory(Store):
    """Blobs in memory, delivered in pieces; notes all requests."""

    url = "memory"

    def __init__(self, blobs):
        self.blobs = blobs
        self.asked: list[tuple[str, int, int]] = []
        self.broken: set[str] = set()

    def was_asked(self, key):
        return any(asked == key for asked, _, _ in list(self.asked))

    def read(self, key, *, limit):
        return self.blobs[key]

    def stream(self, key, start, length):
        self.asked.append((key, start, length))
        for at in range(start, start + length, 16 * KIB):
            if key in self.broken:
                raise StoreError("on purpose", retryable=True)
            piece = self.blobs[key][at : min(at + 16 * KIB, start + length)]
            time.sleep(1e-4)  # lets other threads in
            yield piece


class SteadyMeter(Meter):
    """Measures the same rate at any time, on which chunks of the tests are worth sharing."""

    def rate(self):
        return 2e6


def update(key, sizes):
    """A blob's bytes, and its chunks."""
    data = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    chunks = tuple(
        Chunk(number, 0, start, len(d), hashlib.sha256(d).digest(), (), ())
        for number, (start, d) in enumerate(zip(starts, data, strict=True))
    )
    return b"".join(data), (Blob(key, sum(sizes)),), chunks


class Sink:
    """Takes bundles of one chunk, as a target does."""

    def __init__(self):
        self.got: dict[int, bytes] = {}
        self.lock = threading.Lock()

    def __call__(self, bundle, payloads):
        (payload,) = payloads
        with self.lock:
            assert bundle.number not in self.got
            self.got[bundle.number] = bytes(payload)


@pytest.fixture
def world():
    one, two = update("one", [200 * KIB] * 9), update("two", [150 * KIB] * 9)
    store = Memory({"one": one[0], "two": two[0]})
    options = TransferOptions(jobs=4, retry=Retry(attempts=2, base=0.01))
    fetcher = Fetcher(store, options, Stop(), SteadyMeter())
    yield store, fetcher, one, two
    fetcher.stop.call()
    fetcher.close()


def test_the_last_chunks_are_shared(world):
    store, fetcher, (data, blobs, chunks), _ = world
    sink = Sink()
    assert fetcher.run(Wanted.of(blobs, chunks), sink)
    assert b"".join(sink.got[n] for n in range(9)) == data
    sizes = [length for _, _, length in store.asked]
    assert sum(sizes) == fetcher.meter.done == len(data), "each byte once"
    assert sizes[0] == 200 * KIB
    assert MIN_PART <= sizes[-1] < 100 * KIB


def test_one_thread_shares_with_nobody(world):
    store, _, (_data, blobs, chunks), _ = world
    fetcher = Fetcher(store, TransferOptions(jobs=1), Stop(), SteadyMeter())
    assert fetcher.run(Wanted.of(blobs, chunks), Sink())
    assert min(length for _, _, length in store.asked) >= 200 * KIB


def test_a_part_that_fails_is_fetched_again(world):
    store, fetcher, (data, blobs, chunks), _ = world
    sink, failed = Sink(), []
    stream = store.stream

    def once(key, start, length):
        if length < 100 * KIB and not failed:
            failed.append(start)
            yield from stream(key, start, length // 2)
            raise StoreError("on purpose", retryable=True)
        yield from stream(key, start, length)

    store.stream = once
    assert fetcher.run(Wanted.of(blobs, chunks), sink)
    assert failed
    assert b"".join(sink.got[n] for n in range(9)) == data
    assert fetcher.meter.done == len(data)
    assert fetcher.meter.received > len(data)


def test_the_next_update_is_begun_but_not_applied(world):
    store, fetcher, (_, blobs, chunks), (other, more, following) = world
    size = sum(c.length for c in chunks)

    def last_takes_long(bundle, payloads):
        if bundle.number == 8:
            until(lambda: store.was_asked("two") and fetcher.meter.done > size)

    assert fetcher.run(
        Wanted.of(blobs, chunks), last_takes_long, following=lambda: Wanted.of(more, following)
    )
    assert fetcher.meter.done > size
    sink = Sink()
    assert fetcher.run(Wanted.of(more, following), sink)
    assert b"".join(sink.got[n] for n in range(9)) == other
    asked = [(start, length) for key, start, length in store.asked if key == "two"]
    assert sum(length for _, length in asked) == len(other), "nothing is fetched twice"


def test_what_was_begun_for_nothing_does_not_count(world):
    store, fetcher, (data, blobs, chunks), (_other, more, following) = world
    rest = following[5:]

    def wait_for_it(bundle, payloads):
        if bundle.number == 8:
            until(lambda: store.was_asked("two"))

    assert fetcher.run(
        Wanted.of(blobs, chunks), wait_for_it, following=lambda: Wanted.of(more, following)
    )
    sink = Sink()
    assert fetcher.run(Wanted.of(more, rest), sink)
    assert sorted(sink.got) == [5, 6, 7, 8]
    fetcher.close()
    assert fetcher.meter.done == len(data) + sum(c.length for c in rest)


def test_what_fails_ahead_fails_only_when_it_is_wanted(world):
    store, fetcher, (_, blobs, chunks), (_, more, following) = world
    store.broken.add("two")

    def wait_for_it(bundle, payloads):
        if bundle.number == 8:
            until(lambda: store.was_asked("two"))

    assert fetcher.run(
        Wanted.of(blobs, chunks), wait_for_it, following=lambda: Wanted.of(more, following)
    )
    with pytest.raises(StoreError, match="on purpose"):
        fetcher.run(Wanted.of(more, following), Sink())


def test_an_index_that_cannot_be_read_ahead_is_no_error_yet(world):
    _, fetcher, (_, blobs, chunks), _ = world

    def fail():
        raise StoreError("on purpose")

    assert fetcher.run(Wanted.of(blobs, chunks), Sink(), following=fail)
