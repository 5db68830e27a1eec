"""Try again after failures of a store: a read goes on at the byte that it had reached."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from p2u.errors import Cancelled, StoreError
from p2u.stores.backoff import Retry
from p2u.stores.base import Store
from p2u.stores.forwarding import Forwarding

T = TypeVar("T")


def with_retries(
    call: Callable[[], T], retry: Retry, sleep: Callable[[float], object] = time.sleep
) -> T:
    """The result of a call that is made again after retryable errors.

    Raises:
        StoreError: It is not retryable, or came too often.
    """
    failures = 0
    while True:
        try:
            return call()
        except StoreError as error:
            failures += 1
            if not error.retryable or failures >= retry.attempts:
                raise
            sleep(retry.delay(failures, error.retry_after))


class Pause:
    """Waits between tries, in several threads, which somebody can end."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def __call__(self, seconds: float) -> None:
        """Wait; raises Cancelled if `end` is or was called."""
        if self._ended.wait(seconds):
            raise Cancelled("the transfer was cancelled")

    def end(self) -> None:
        """End all waits, now and later."""
        self._ended.set()


class Retrying(Forwarding):
    """Another store, whose failures are met by trying again.

    Args:
        store: See `Forwarding`.
        retry: When to try again.
        sleep: Waits for so many seconds; what it raises ends the request.
    """

    def __init__(
        self, store: Store, retry: Retry, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        super().__init__(store)
        self._retry = retry
        self._sleep = sleep

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        return with_retries(lambda: self.store.read(key, limit=limit), self._retry, self._sleep)

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`."""
        return with_retries(
            lambda: self.store.poll(key, limit=limit, mark=mark), self._retry, self._sleep
        )

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        return self._stream(self.store.stream(key, start, length), key, start, length)

    def _stream(
        self, pieces: Generator[bytes, None, None], key: str, start: int, length: int
    ) -> Generator[bytes, None, None]:
        failures = at = 0
        while True:
            try:
                with contextlib.closing(pieces):
                    for piece in pieces:
                        at, failures = at + len(piece), 0
                        yield piece
                return
            except StoreError as error:
                failures += 1
                if not error.retryable or failures >= self._retry.attempts:
                    raise
                self._sleep(self._retry.delay(failures, error.retry_after))
            pieces = self.store.stream(key, start + at, length - at)
